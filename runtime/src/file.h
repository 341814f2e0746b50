/* The artefact as a file: mapping, strict safetensors checks, checksum, tensors by name. */
#ifndef TRIMTAB_FILE_H
#define TRIMTAB_FILE_H

#include "json.h"
#include "trimtab/status.h"

enum { TT_MESSAGE_SIZE = 256 };

/* Memory that lives as long as the controller: a list of blocks, freed together. */
typedef struct tt_block {
  struct tt_block* next;
} tt_block;
typedef struct tt_memory {
  tt_block* blocks;
  size_t left; /* bytes that may still be taken: what a file of its size can justify */
} tt_memory;
/* zeroed, aligned to 64 bytes; null when out of memory, or when it is more than what is left */
void* tt_take(tt_memory* memory, size_t size);
void tt_free_all(tt_memory* memory);

typedef struct tt_tensor {
  const unsigned char* bytes; /* not aligned */
  int is_f32;                 /* else U8 */
  int rank;
  int64_t shape[3];
} tt_tensor;

typedef struct tt_file {
  const unsigned char* bytes;
  size_t size, data_begin;
  tt_json header, spec;
  char* spec_text;
  char message[TT_MESSAGE_SIZE];
} tt_file;

/* Checks everything about the bytes, leaves header and spec parsed in `memory`. */
tt_status tt_file_check(tt_file* file, tt_memory* memory);
/* 0 when there is none of that name. */
int tt_file_tensor(const tt_file* file, const char* name, tt_tensor* tensor);
/* Formats file->message and returns `status`. */
tt_status tt_file_error(tt_file* file, tt_status status, const char* format, ...) __attribute__((format(printf, 3, 4)));

#endif
