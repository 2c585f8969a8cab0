"""Open the programs of a ``.pt2`` and evaluate them: ``python -m deepmd_gnn.files.opening``.

A process of its own, because a program that cannot be opened may end the one that tries. It imports nothing but torch,
so that it takes three seconds. :mod:`~deepmd_gnn.host.frozen_check` writes the folder and reads the answer.
"""

import sys
from pathlib import Path
from typing import Any

import torch

REQUEST, ANSWER = "request.pt", "answer.pt"
# Place of the features among the arguments of the host's exchange between ranks.
_ROWS = 5


def main() -> None:
    """Answer the request in the folder that stdin names."""
    folder = Path(sys.stdin.read())
    request = torch.load(folder / REQUEST, weights_only=True)
    kept = [exchange_of_nothing(schema) for schema in request["operators"]]
    answer = []
    for name, inputs in request["programs"]:
        print(name, flush=True)  # noqa: T201 - tells which program ended the process
        program: Any = torch._C._aoti.AOTIModelPackageLoader(str(folder / name), "model", False, 1, -1)
        outputs = program.run([value.to(request["device"]) for value in inputs])
        answer.append([value.cpu() for value in outputs])
    torch.save(answer, folder / ANSWER)
    del kept


def exchange_of_nothing(schema: str) -> object:
    """Stand in for the host's exchange between ranks, on a rank without ghosts.

    Parameters
    ----------
    schema : str
        Of the operator, with its namespace.

    Returns
    -------
    object
        The operator is registered as long as it is kept.
    """
    namespace, signature = schema.split("::", 1)
    library: Any = torch.library.Library(namespace, "FRAGMENT")  # type: ignore[no-untyped-call]
    name = library.define(signature)
    library.impl(name, lambda *arguments: arguments[_ROWS].clone(), "CompositeExplicitAutograd")
    return library


if __name__ == "__main__":
    main()
