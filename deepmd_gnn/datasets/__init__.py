"""Labelled structures on their way between users' files and DeePMD-kit's folders."""
