/* Text of the status codes. */
#include "trimtab/status.h"

const char* tt_status_text(tt_status status) {
  switch (status) {
    case TT_OK: return "ok";
    case TT_BAD_ARGUMENT: return "a null pointer, an unknown agent or a size out of range was passed";
    case TT_BAD_INPUT: return "an input is NaN, infinite or not a valid share; the safe action was given";
    case TT_TOO_MANY_ITEMS: return "more items than the maximum given at open; the safe action was given";
    case TT_NO_ITEMS: return "no item is present; the output is zero";
    case TT_DEADLINE_MISSED: return "the answer came after the deadline; the safe action was given";
    case TT_OUT_OF_MEMORY: return "out of memory, or the file asks for more than one of its size may take";
    case TT_IO_ERROR: return "the file cannot be opened or read";
    case TT_BAD_FILE: return "the file is damaged or not a controller artefact";
    case TT_VERSION_MISMATCH: return "made for another version of the runtime";
    case TT_SELF_TEST_FAILED: return "the artefact's own test vectors do not come out as stored";
  }
  return "unknown status";
}
