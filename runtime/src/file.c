/* See file.h. Format: 8 bytes little-endian length, a JSON header, the data (github.com/huggingface/safetensors, "Format").
 * Beyond that an artefact carries in its metadata
 *   trimtab.controller   the spec, JSON in a string
 *   trimtab.checksum     16 lower-case hex digits: FNV-1a (64 bits) of the whole file with these digits taken as '0'
 * FNV-1a multiplies by an odd number at each byte, so a change confined to one byte always shows. */
#include "file.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kMaxTensors = 4096, kMaxHeader = 100000000, kChecksumDigits = 16 };

void* tt_take(tt_memory* memory, size_t size) {
  const size_t header = 64;
  if (size > SIZE_MAX / 2) return NULL;
  const size_t whole = (size + header + 63) / 64 * 64;
  tt_block* block = whole <= memory->left ? aligned_alloc(64, whole) : NULL;
  if (!block) return NULL;
  memory->left -= whole;
  memset(block, 0, whole);
  block->next = memory->blocks;
  memory->blocks = block;
  return (char*)block + header;
}

void tt_free_all(tt_memory* memory) {
  while (memory->blocks) {
    tt_block* block = memory->blocks;
    memory->blocks = block->next;
    free(block);
  }
}

tt_status tt_file_error(tt_file* file, tt_status status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(file->message, sizeof file->message, format, arguments);
  va_end(arguments);
  return status;
}

static uint64_t fnv1a(uint64_t hash, const unsigned char* bytes, size_t size) {
  for (size_t i = 0; i < size; ++i) hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
  return hash;
}

static tt_status check_checksum(tt_file* file, int metadata) {
  const int node = tt_json_find(&file->header, metadata, "trimtab.checksum");
  if (node < 0 || file->header.nodes[node].kind != TT_JSON_STRING ||
      file->header.nodes[node].end - file->header.nodes[node].begin != kChecksumDigits)
    return tt_file_error(file, TT_BAD_FILE, "metadata 'trimtab.checksum' is missing: not a controller artefact, or damaged");
  const size_t at = 8 + file->header.nodes[node].begin;
  static const unsigned char zeros[] = "0000000000000000";
  uint64_t hash = fnv1a(UINT64_C(0xcbf29ce484222325), file->bytes, at);
  hash = fnv1a(hash, zeros, kChecksumDigits);
  hash = fnv1a(hash, file->bytes + at + kChecksumDigits, file->size - at - kChecksumDigits);
  char expected[kChecksumDigits + 1];
  snprintf(expected, sizeof expected, "%016" PRIx64, hash);
  if (memcmp(expected, file->bytes + at, kChecksumDigits) != 0)
    return tt_file_error(file, TT_BAD_FILE, "checksum differs: the file is damaged or was edited; export it again");
  return TT_OK;
}

/* Reads one header entry; 0 when it is malformed. */
static int read_entry(const tt_file* file, int entry, tt_tensor* tensor, int64_t* begin, int64_t* end) {
  const tt_json* h = &file->header;
  const int dtype = tt_json_find(h, entry, "dtype"), shape = tt_json_find(h, entry, "shape"),
            offsets = tt_json_find(h, entry, "data_offsets");
  if (dtype < 0 || shape < 0 || offsets < 0 || h->nodes[entry].count != 6) return 0;
  tensor->is_f32 = tt_json_is(h, dtype, "F32");
  if (!tensor->is_f32 && !tt_json_is(h, dtype, "U8")) return 0;
  if (h->nodes[shape].kind != TT_JSON_ARRAY || h->nodes[shape].count > 3) return 0;
  const int64_t limit = (int64_t)(file->size - file->data_begin);
  int64_t bytes = tensor->is_f32 ? 4 : 1;
  tensor->rank = 0;
  for (int d = h->nodes[shape].first; d >= 0; d = h->nodes[d].next) {
    int64_t n;
    if (!tt_json_integer(h, d, 0, limit, &n) || (n > 0 && bytes > limit / n)) return 0;
    bytes *= n;
    tensor->shape[tensor->rank++] = n;
  }
  if (h->nodes[offsets].kind != TT_JSON_ARRAY || h->nodes[offsets].count != 2) return 0;
  const int first = h->nodes[offsets].first;
  if (!tt_json_integer(h, first, 0, limit, begin) || !tt_json_integer(h, h->nodes[first].next, *begin, limit, end)) return 0;
  tensor->bytes = file->bytes + file->data_begin + *begin;
  return *end - *begin == bytes;
}

/* Every tensor well-formed, and together they cover the data without holes or overlaps: their offsets, taken in the order
 * of their beginnings, follow one another. */
static tt_status check_tensors(tt_file* file, tt_memory* memory) {
  const tt_json* h = &file->header;
  const int count = h->nodes[0].count / 2;
  if (count > kMaxTensors) return tt_file_error(file, TT_BAD_FILE, "%d tensors: more than %d", count, kMaxTensors);
  int64_t(*spans)[2] = tt_take(memory, (size_t)(count + 1) * sizeof *spans);
  if (!spans) return TT_OUT_OF_MEMORY;
  int num_spans = 0;
  for (int k = h->nodes[0].first; k >= 0; k = h->nodes[h->nodes[k].next].next) {
    if (tt_json_is(h, k, "__metadata__")) continue;
    tt_tensor tensor;
    if (!read_entry(file, h->nodes[k].next, &tensor, &spans[num_spans][0], &spans[num_spans][1]))
      return tt_file_error(file, TT_BAD_FILE, "tensor '%.*s': dtype, shape and data_offsets do not fit each other or the file",
                           (int)(h->nodes[k].end - h->nodes[k].begin > 80 ? 80 : h->nodes[k].end - h->nodes[k].begin),
                           h->text + h->nodes[k].begin);
    ++num_spans;
  }
  int64_t covered = 0;
  for (int left = num_spans; left > 0;) {
    const int before = left;
    for (int i = 0; i < left; ++i) {
      if (spans[i][0] != covered) continue;
      covered = spans[i][1];
      memcpy(spans[i], spans[--left], sizeof *spans);
      --i;
    }
    if (left == before) return tt_file_error(file, TT_BAD_FILE, "tensors overlap or leave holes at data byte %" PRId64, covered);
  }
  if (covered != (int64_t)(file->size - file->data_begin))
    return tt_file_error(file, TT_BAD_FILE, "the data has %zu bytes, the tensors %" PRId64, file->size - file->data_begin, covered);
  return TT_OK;
}

static tt_status parse(tt_file* file, tt_memory* memory, const char* text, size_t size, tt_json* json, const char* what) {
  const size_t max_nodes = tt_json_max_nodes(text, size);
  tt_json_node* nodes = tt_take(memory, max_nodes * sizeof *nodes);
  if (!nodes) return tt_file_error(file, TT_OUT_OF_MEMORY, "no memory for the %s", what);
  if (tt_json_parse(text, size, nodes, max_nodes, json) != 0 || nodes[0].kind != TT_JSON_OBJECT)
    return tt_file_error(file, TT_BAD_FILE, "the %s is not a JSON object", what);
  return TT_OK;
}

tt_status tt_file_check(tt_file* file, tt_memory* memory) {
  uint64_t length = 0;
  if (file->size < 8) return tt_file_error(file, TT_BAD_FILE, "%zu bytes: too short for a safetensors file", file->size);
  for (int i = 7; i >= 0; --i) length = length << 8 | file->bytes[i];
  if (length > file->size - 8 || length > kMaxHeader || length < 2 || file->bytes[8] != '{')
    return tt_file_error(file, TT_BAD_FILE, "header length %" PRIu64 " does not fit a file of %zu bytes: cut short or not safetensors",
                         length, file->size);
  file->data_begin = 8 + (size_t)length;
  tt_status status = parse(file, memory, (const char*)file->bytes + 8, (size_t)length, &file->header, "header");
  if (status != TT_OK) return status;
  const int metadata = tt_json_find(&file->header, 0, "__metadata__");
  if ((status = check_checksum(file, metadata)) != TT_OK) return status;
  if ((status = check_tensors(file, memory)) != TT_OK) return status;
  const int spec = tt_json_find(&file->header, metadata, "trimtab.controller");
  if (spec < 0) return tt_file_error(file, TT_BAD_FILE, "metadata 'trimtab.controller' is missing: not a controller artefact");
  file->spec_text = tt_take(memory, (size_t)(file->header.nodes[spec].end - file->header.nodes[spec].begin) + 1);
  if (!file->spec_text) return TT_OUT_OF_MEMORY;
  const int64_t size = tt_json_string(&file->header, spec, file->spec_text);
  if (size < 0) return tt_file_error(file, TT_BAD_FILE, "metadata 'trimtab.controller' is not a string");
  return parse(file, memory, file->spec_text, (size_t)size, &file->spec, "spec");
}

int tt_file_tensor(const tt_file* file, const char* name, tt_tensor* tensor) {
  int64_t begin, end;
  const int entry = tt_json_find(&file->header, 0, name);
  return entry >= 0 && read_entry(file, entry, tensor, &begin, &end);
}
