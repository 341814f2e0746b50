#include "policies/tokenizer/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>
#include <vector>

#include "core/error.h"

namespace trimtab {
namespace {

struct CodePointRange {
  uint32_t first, last;
};

// Code points that a current NFC reorders or composes and Hugging Face tokenizers 0.23.3 does not, because
// its tables end before they were assigned; found by asking it about every combining mark and every canonical
// decomposition of Unicode 18. utf8proc of any version gives its result when the text is normalised in pieces
// between them.
constexpr CodePointRange kLeftAlone[] = {
    {0x5C8, 0x5C9},     {0x7FD, 0x7FD},     {0x897, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
    {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1AF0},
    {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0x105C9, 0x105C9}, {0x105D2, 0x105D2}, {0x105DA, 0x105DA},
    {0x105E4, 0x105E4}, {0x10D24, 0x10D27}, {0x10D69, 0x10D6D}, {0x10EAB, 0x10EAC}, {0x10ECB, 0x10ECF},
    {0x10EF0, 0x10EFB}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070},
    {0x1133B, 0x1133B}, {0x11382, 0x11385}, {0x1138B, 0x1138B}, {0x1138E, 0x1138E}, {0x11390, 0x11391},
    {0x113B8, 0x113B8}, {0x113BB, 0x113BB}, {0x113C2, 0x113C2}, {0x113C5, 0x113C5}, {0x113C7, 0x113C9},
    {0x113CE, 0x113D0}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x11935, 0x11935},
    {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34},
    {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97},
    {0x11F41, 0x11F42}, {0x1611E, 0x16129}, {0x1612F, 0x1612F}, {0x16D63, 0x16D63}, {0x16D67, 0x16D6A},
    {0x16FF0, 0x16FF1}, {0x1D127, 0x1D128}, {0x1D250, 0x1D252}, {0x1D25B, 0x1D25C}, {0x1D25F, 0x1D25F},
    {0x1D280, 0x1D281}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF},
    {0x1E4EC, 0x1E4EF}, {0x1E5EE, 0x1E5EF}, {0x1E6E3, 0x1E6E3}, {0x1E6E6, 0x1E6E6}, {0x1E6EE, 0x1E6EF},
    {0x1E6F5, 0x1E6F5}};

bool is_left_alone(uint32_t value) {
  const auto* range = std::upper_bound(std::begin(kLeftAlone), std::end(kLeftAlone), value,
                                       [](uint32_t v, const CodePointRange& r) { return v < r.first; });
  return range != std::begin(kLeftAlone) && value <= std::prev(range)->last;
}

int combining_class(int32_t value) { return utf8proc_get_property(value)->combining_class; }

// Sorts every run of marks by class, keeping the order within one class. utf8proc_map does this too, in
// quadratic time.
void order_marks(std::vector<int32_t>& points) {
  for (auto begin = points.begin(); begin != points.end();) {
    if (combining_class(*begin) == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, points.end(), [](int32_t p) { return combining_class(p) == 0; });
    std::stable_sort(begin, end,
                     [](int32_t a, int32_t b) { return combining_class(a) < combining_class(b); });
    begin = end;
  }
}

void append_normalised(std::string_view text, std::string& out) {
  std::vector<int32_t> points;
  for (; !text.empty();) {
    const CodePoint point = first_code_point(text);
    int32_t parts[16];
    int boundary = 0;
    const auto options = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE);
    const auto size = utf8proc_decompose_char(static_cast<int32_t>(point.value), parts, std::size(parts),
                                              options, &boundary);
    TT_CHECK(size >= 0 && size <= static_cast<utf8proc_ssize_t>(std::size(parts)), "{}", size);
    points.insert(points.end(), parts, parts + size);
    text.remove_prefix(point.length);
  }
  order_marks(points);
  const auto compose = static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE);
  const auto size =
      utf8proc_normalize_utf32(points.data(), static_cast<utf8proc_ssize_t>(points.size()), compose);
  TT_CHECK(size >= 0, "utf8proc: {}", utf8proc_errmsg(size));
  for (utf8proc_ssize_t i = 0; i < size; ++i) append_code_point(static_cast<uint32_t>(points[i]), out);
}

// Length of the well-formed character at the front of `bytes`; when there is none, of the maximal part that
// could have begun one (at least 1 byte).
struct Sequence {
  size_t length = 1;
  bool well_formed = false;
};
Sequence first_sequence(std::string_view bytes) {
  const auto lead = static_cast<uint8_t>(bytes[0]);
  const size_t wanted = lead < 0x80   ? 1
                        : lead < 0xC2 ? 0
                        : lead < 0xE0 ? 2
                        : lead < 0xF0 ? 3
                        : lead < 0xF5 ? 4
                                      : 0;
  if (wanted <= 1) return {1, wanted == 1};
  for (size_t i = 1; i < wanted; ++i) {
    if (i == bytes.size()) return {i, false};
    const auto tail = static_cast<uint8_t>(bytes[i]);
    const uint8_t low = i > 1 ? 0x80 : lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const uint8_t high = i > 1 ? 0xBF : lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (tail < low || tail > high) return {i, false};
  }
  return {wanted, true};
}

}  // namespace

CodePoint first_code_point(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<uint8_t>(text[i])); };
  const uint32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xE0) return {(lead & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  if (lead < 0xF0) return {(lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
  return {(lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), 4};
}

CodePoint last_code_point(std::string_view text) {
  size_t start = text.size() - 1;
  while (start > 0 && (static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) --start;
  return first_code_point(text.substr(start));
}

void append_code_point(uint32_t value, std::string& text) {
  const auto put = [&](uint32_t byte) { text += static_cast<char>(byte); };
  if (value < 0x80) return put(value);
  if (value < 0x800) {
    put(0xC0 | value >> 6);
  } else {
    if (value < 0x10000) {
      put(0xE0 | value >> 12);
    } else {
      put(0xF0 | value >> 18);
      put(0x80 | (value >> 12 & 0x3F));
    }
    put(0x80 | (value >> 6 & 0x3F));
  }
  put(0x80 | (value & 0x3F));
}

std::string code_point_name(uint32_t value) { return fmt::format("U+{:04X}", value); }

std::string replace_ill_formed(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    const Sequence sequence = first_sequence(bytes);
    out += sequence.well_formed ? bytes.substr(0, sequence.length) : std::string_view("\xEF\xBF\xBD");
    bytes.remove_prefix(sequence.length);
  }
  return out;
}

bool is_white_space(uint32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

std::string normalise_nfc(std::string_view text) {
  // Below U+0300 everything is composed already; UTF-8 of U+0300 starts with CC 80.
  if (std::none_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) >= 0xCC; }))
    return std::string(text);
  std::string out;
  out.reserve(text.size());
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = first_code_point(text.substr(at));
    if (is_left_alone(point.value)) {
      append_normalised(text.substr(start, at - start), out);
      out += text.substr(at, point.length);
      start = at + point.length;
    }
    at += point.length;
  }
  append_normalised(text.substr(start), out);
  return out;
}

}  // namespace trimtab
