/* JSON for untrusted files: strict RFC 8259 grammar, UTF-8 checked, no recursion, depth at most TT_JSON_DEPTH, a node per
 * value in one array given by the caller. Strings stay in the text; tt_json_string unescapes. */
#ifndef TRIMTAB_JSON_H
#define TRIMTAB_JSON_H

#include <stddef.h>
#include <stdint.h>

enum { TT_JSON_DEPTH = 16, TT_JSON_KEYS = 4100 }; /* of one object: the tensors of a file and its metadata */
typedef enum tt_json_kind { TT_JSON_OBJECT, TT_JSON_ARRAY, TT_JSON_STRING, TT_JSON_NUMBER, TT_JSON_WORD } tt_json_kind;

/* In an object keys and values alternate as children. first/next: indices of nodes, -1 for none. */
typedef struct tt_json_node {
  tt_json_kind kind;
  uint32_t begin, end;   /* in the text; a string without its quotes */
  int first, next, count;
} tt_json_node;

typedef struct tt_json {
  const char* text;
  tt_json_node* nodes;
  int num_nodes;
} tt_json;

/* Upper bound of nodes: one per structural character. */
size_t tt_json_max_nodes(const char* text, size_t size);
/* 0: ok; otherwise nothing may be read from *json. Duplicate keys are errors. */
int tt_json_parse(const char* text, size_t size, tt_json_node* nodes, size_t max_nodes, tt_json* json);

int tt_json_find(const tt_json* json, int object, const char* key);         /* -1: absent or not an object */
int tt_json_is(const tt_json* json, int node, const char* text);            /* a string that equals text (no escapes in it) */
int tt_json_number(const tt_json* json, int node, double* value);           /* 0: not a finite number */
int tt_json_integer(const tt_json* json, int node, int64_t low, int64_t high, int64_t* value);
/* Unescapes into out (at least end - begin + 1 bytes), zero-terminated; returns the length or -1 (not a string, or a zero byte). */
int64_t tt_json_string(const tt_json* json, int node, char* out);

#endif
