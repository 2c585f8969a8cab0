// Runs when a .pt2 is loaded, before the code that was compiled for a processor with more features.
#include <cstdio>
#include <cstdlib>

extern "C" int @NAME@;
int @NAME@ = 1;

__attribute__((constructor(101))) static void check_cpu() {
#ifdef __x86_64__  // code for other processors is made without options
  __builtin_cpu_init();
  if (@SUPPORTED@) return;
  std::fputs("mace model: this .pt2 was frozen for CPUs with @FEATURES@, which this one lacks. "
             "Freeze the model on this machine, or with --cpu generic, or use a .pth.\n", stderr);
  std::_Exit(EXIT_FAILURE);
#endif
}
