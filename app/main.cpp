// The `trimtab` program; see command.h.
#include "app/command.h"
#include "core/run_folder.h"

int main(int argc, char** argv) {
  trimtab::install_interrupt_handler();
  return trimtab::run_command({argv + 1, argv + argc});
}
