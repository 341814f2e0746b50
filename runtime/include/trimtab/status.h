/* Status codes of every call of the runtime. A code other than TT_OK never leaves an output half written: where a call
 * has a documented safe result (a uniform share, equal power) the output holds it, and the code says why. */
#ifndef TRIMTAB_STATUS_H
#define TRIMTAB_STATUS_H

#if defined(__GNUC__)
#define TT_API __attribute__((visibility("default")))
#else
#define TT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tt_status {
  TT_OK = 0,
  TT_BAD_ARGUMENT = 1,      /* a null pointer, an unknown agent, a negative size: the caller's mistake, nothing written */
  TT_BAD_INPUT = 2,         /* NaN or infinite input; the output holds the safe action */
  TT_TOO_MANY_ITEMS = 3,    /* more items than the maximum given at open; the output holds the safe action */
  TT_NO_ITEMS = 4,          /* no item is present; the output is all zero */
  TT_DEADLINE_MISSED = 5,   /* the answer came later than the deadline; the output holds the safe action */
  TT_OUT_OF_MEMORY = 6,
  TT_IO_ERROR = 7,          /* the file cannot be opened or read */
  TT_BAD_FILE = 8,          /* the file is damaged or not an artefact of this schema */
  TT_VERSION_MISMATCH = 9,  /* the file or the caller was made for another version of this library */
  TT_SELF_TEST_FAILED = 10  /* the file's own test vectors do not come out as stored */
} tt_status;

/* One English sentence per code; never null. */
TT_API const char* tt_status_text(tt_status status);

#ifdef __cplusplus
}
#endif
#endif
