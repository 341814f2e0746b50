/* See json.h. */
#include "json.h"

#include <math.h>
#include <string.h>

typedef struct Parser {
  const char* text;
  size_t at, size;
  tt_json_node* nodes;
  size_t num_nodes, max_nodes;
} Parser;

size_t tt_json_max_nodes(const char* text, size_t size) {
  size_t n = 1;
  for (size_t i = 0; i < size; ++i) n += text[i] == ',' || text[i] == ':' || text[i] == '{' || text[i] == '[';
  return n;
}

static void skip_space(Parser* p) {
  while (p->at < p->size && (p->text[p->at] == ' ' || p->text[p->at] == '\t' || p->text[p->at] == '\n' || p->text[p->at] == '\r'))
    ++p->at;
}

static int hex4(const char* s, size_t left, unsigned* value) {
  *value = 0;
  if (left < 4) return 0;
  for (int i = 0; i < 4; ++i) {
    const char c = s[i];
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return 0;
    *value = *value * 16 + (unsigned)digit;
  }
  return 1;
}

/* Length of the UTF-8 sequence at s, 0 when it is not one (RFC 3629: no overlong forms, no surrogates). */
static size_t utf8_length(const char* text, size_t left) {
  const unsigned char* s = (const unsigned char*)text;
  if (s[0] < 0x80) return 1;
  const size_t n = s[0] >= 0xC2 && s[0] <= 0xDF ? 2 : (s[0] & 0xF0) == 0xE0 ? 3 : s[0] >= 0xF0 && s[0] <= 0xF4 ? 4 : 0;
  if (n == 0 || left < n) return 0;
  for (size_t i = 1; i < n; ++i)
    if ((s[i] & 0xC0) != 0x80) return 0;
  if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) || (s[0] == 0xF0 && s[1] < 0x90) ||
      (s[0] == 0xF4 && s[1] > 0x8F))
    return 0;
  return n;
}

/* Length of the escape at s (which starts with a backslash) and the code point it stands for; 0 when it is none. */
static size_t escape_length(const char* s, size_t left, unsigned* code) {
  static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
  if (left < 2) return 0;
  const char* simple = s[1] ? strchr(from, s[1]) : NULL;
  if (simple) {
    *code = (unsigned char)to[simple - from];
    return 2;
  }
  unsigned low;
  if (s[1] != 'u' || !hex4(s + 2, left - 2, code)) return 0;
  if (*code < 0xD800 || *code > 0xDFFF) return 6;
  if (*code > 0xDBFF || left < 12 || s[6] != '\\' || s[7] != 'u' || !hex4(s + 8, left - 8, &low) || low < 0xDC00 || low > 0xDFFF)
    return 0;
  *code = 0x10000 + ((*code - 0xD800) << 10) + (low - 0xDC00);
  return 12;
}

static int scan_string(Parser* p) {
  while (p->at < p->size) {
    const char c = p->text[p->at];
    if (c == '"') return 1;
    if ((unsigned char)c < 0x20) return 0;
    unsigned code;
    const size_t left = p->size - p->at;
    const size_t n = c == '\\' ? escape_length(p->text + p->at, left, &code) : utf8_length(p->text + p->at, left);
    if (n == 0) return 0;
    p->at += n;
  }
  return 0;
}

static size_t digits(const Parser* p, size_t at) {
  size_t n = 0;
  while (at + n < p->size && p->text[at + n] >= '0' && p->text[at + n] <= '9') ++n;
  return n;
}

static int scan_number(Parser* p) {
  size_t at = p->at;
  if (p->text[at] == '-') ++at;
  const size_t whole = digits(p, at);
  if (whole == 0 || (whole > 1 && p->text[at] == '0')) return 0;
  at += whole;
  if (at < p->size && p->text[at] == '.') {
    const size_t n = digits(p, at + 1);
    if (n == 0) return 0;
    at += 1 + n;
  }
  if (at < p->size && (p->text[at] == 'e' || p->text[at] == 'E')) {
    ++at;
    if (at < p->size && (p->text[at] == '+' || p->text[at] == '-')) ++at;
    const size_t n = digits(p, at);
    if (n == 0) return 0;
    at += n;
  }
  p->at = at;
  return 1;
}

static int scan_word(Parser* p) {
  static const char* const words[] = {"true", "false", "null"};
  for (int i = 0; i < 3; ++i) {
    const size_t n = strlen(words[i]);
    if (p->size - p->at >= n && memcmp(p->text + p->at, words[i], n) == 0) {
      p->at += n;
      return 1;
    }
  }
  return 0;
}

/* One value without its children; -1 on error. */
static int scan_value(Parser* p) {
  skip_space(p);
  if (p->at >= p->size || p->num_nodes >= p->max_nodes) return -1;
  const int index = (int)p->num_nodes++;
  tt_json_node* node = &p->nodes[index];
  *node = (tt_json_node){.begin = (uint32_t)p->at, .first = -1, .next = -1};
  const char c = p->text[p->at];
  int ok = 1;
  if (c == '{' || c == '[') {
    node->kind = c == '{' ? TT_JSON_OBJECT : TT_JSON_ARRAY;
    ++p->at;
  } else if (c == '"') {
    node->kind = TT_JSON_STRING;
    node->begin = (uint32_t)++p->at;
    ok = scan_string(p);
    node->end = (uint32_t)p->at;
    ++p->at;
    return ok ? index : -1;
  } else if (c == '-' || (c >= '0' && c <= '9')) {
    node->kind = TT_JSON_NUMBER;
    ok = scan_number(p);
  } else {
    node->kind = TT_JSON_WORD;
    ok = scan_word(p);
  }
  node->end = (uint32_t)p->at;
  return ok ? index : -1;
}

static int duplicate_key(const Parser* p, int object) { /* in quadratic time: see TT_JSON_KEYS */
  for (int a = p->nodes[object].first; a >= 0; a = p->nodes[p->nodes[a].next].next) {
    const size_t n = p->nodes[a].end - p->nodes[a].begin;
    for (int b = p->nodes[p->nodes[a].next].next; b >= 0; b = p->nodes[p->nodes[b].next].next)
      if (p->nodes[b].end - p->nodes[b].begin == n && memcmp(p->text + p->nodes[a].begin, p->text + p->nodes[b].begin, n) == 0) return 1;
  }
  return 0;
}

/* After a child of `parent` (or none yet): 1 go on with another child, 0 the container closed, -1 error. */
static int next_in_container(Parser* p, int parent) {
  tt_json_node* node = &p->nodes[parent];
  skip_space(p);
  if (p->at >= p->size) return -1;
  const char c = p->text[p->at];
  const int object = node->kind == TT_JSON_OBJECT;
  const int value_due = object && node->count % 2 == 1;
  if (value_due) {
    ++p->at;
    return c == ':' ? 1 : -1;
  }
  if (c == (object ? '}' : ']')) {
    node->end = (uint32_t)++p->at;
    return object && duplicate_key(p, parent) ? -1 : 0;
  }
  if (object && node->count >= 2 * TT_JSON_KEYS) return -1;
  if (node->count > 0 && c != ',') return -1;
  if (node->count > 0) {
    ++p->at;
    skip_space(p);
  }
  return object && (p->at >= p->size || p->text[p->at] != '"') ? -1 : 1;
}

int tt_json_parse(const char* text, size_t size, tt_json_node* nodes, size_t max_nodes, tt_json* json) {
  if (size >= INT32_MAX / 2) return 1;
  Parser p = {.text = text, .size = size, .nodes = nodes, .max_nodes = max_nodes};
  int stack[TT_JSON_DEPTH], last[TT_JSON_DEPTH] = {0};
  int depth = 0;
  int value = scan_value(&p);
  for (;;) {
    if (value < 0) return 1;
    if (depth > 0) { /* hang it below its container */
      tt_json_node* parent = &nodes[stack[depth - 1]];
      if (parent->count++ == 0) parent->first = value;
      else nodes[last[depth - 1]].next = value;
      last[depth - 1] = value;
    }
    if (nodes[value].kind == TT_JSON_OBJECT || nodes[value].kind == TT_JSON_ARRAY) {
      if (depth == TT_JSON_DEPTH) return 1;
      stack[depth++] = value;
    }
    int more = 0;
    while (depth > 0 && (more = next_in_container(&p, stack[depth - 1])) == 0) --depth;
    if (more < 0) return 1;
    if (depth == 0) break;
    value = scan_value(&p);
  }
  skip_space(&p);
  *json = (tt_json){text, nodes, (int)p.num_nodes};
  return p.at != size;
}

int tt_json_find(const tt_json* json, int object, const char* key) {
  if (object < 0 || json->nodes[object].kind != TT_JSON_OBJECT) return -1;
  for (int k = json->nodes[object].first; k >= 0; k = json->nodes[json->nodes[k].next].next)
    if (tt_json_is(json, k, key)) return json->nodes[k].next;
  return -1;
}

int tt_json_is(const tt_json* json, int node, const char* text) {
  if (node < 0 || json->nodes[node].kind != TT_JSON_STRING) return 0;
  const size_t n = json->nodes[node].end - json->nodes[node].begin;
  return n == strlen(text) && memcmp(json->text + json->nodes[node].begin, text, n) == 0;
}

/* By hand, because strtod follows the host's locale. Exact to one unit in the last place of a double. */
int tt_json_number(const tt_json* json, int node, double* value) {
  if (node < 0 || json->nodes[node].kind != TT_JSON_NUMBER) return 0;
  const char *s = json->text + json->nodes[node].begin, *end = json->text + json->nodes[node].end;
  const int negative = *s == '-';
  double mantissa = 0;
  int exponent = 0, written = 0, sign = 1, after_point = 0;
  for (s += negative; s < end && *s != 'e' && *s != 'E'; ++s) {
    if (*s == '.') {
      after_point = 1;
    } else {
      const int fits = mantissa < 1e18;
      if (fits) mantissa = mantissa * 10 + (*s - '0');
      exponent += (fits ? 0 : 1) - after_point;
    }
  }
  for (; s < end; ++s) {
    if (*s == '-') sign = -1;
    if (*s >= '0' && *s <= '9' && written < 10000) written = written * 10 + (*s - '0');
  }
  *value = (negative ? -mantissa : mantissa) * pow(10.0, exponent + sign * written);
  return isfinite(*value);
}

int tt_json_integer(const tt_json* json, int node, int64_t low, int64_t high, int64_t* value) {
  double number;
  if (!tt_json_number(json, node, &number) || number != floor(number) || number < (double)low || number > (double)high) return 0;
  *value = (int64_t)number;
  return 1;
}

static size_t put_utf8(unsigned code, char* out) {
  const int n = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
  for (int i = n - 1; i > 0; --i, code >>= 6) out[i] = (char)(0x80 | (code & 0x3F));
  out[0] = (char)(lead[n] | code);
  return (size_t)n;
}

int64_t tt_json_string(const tt_json* json, int node, char* out) {
  if (node < 0 || json->nodes[node].kind != TT_JSON_STRING) return -1;
  size_t length = 0;
  for (size_t at = json->nodes[node].begin; at < json->nodes[node].end;) {
    unsigned code = 1;
    if (json->text[at] == '\\') {
      at += escape_length(json->text + at, json->nodes[node].end - at, &code);
      length += put_utf8(code, out + length);
    } else {
      out[length++] = json->text[at++];
    }
    if (code == 0) return -1;
  }
  out[length] = 0;
  return (int64_t)length;
}
