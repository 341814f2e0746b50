// How keys and values of one page of a KV cache lie in memory, at 16, 8, 4 or 2 bits.
//
// A page holds up to `tokens` keys and values of one KV head. An element is stored as an integer code with an affine map per group,
//
//   m = min,  s = (max - m) / (2^b - 1),             code = clamp(round((x - m) / s), 0, 2^b - 1),        x' = s * code + m
//   symmetric:  s = max|x| / max(1, 2^(b-1) - 1),    code = clamp(round(x / s) + 2^(b-1), 1, 2^b - 1),    x' = s * (code - 2^(b-1))
//
// with m rounded down and s rounded up to f16, so that a group's range is covered and |x' - x| <= s / 2 (s: as stored).
// Groups of keys: one channel along the tokens of the page (KIVI, arXiv 2402.02750), or one token along the head's numbers (after a
// Hadamard rotation as good, and cheaper to append to). Groups of values: one token, `value_group` numbers of the head.
// Options: keys divided by their token's norm first (OScaR, 2605.19660), values divided by sqrt(max|x|) of their channel first
// (channel-separable, ZipCache, 2405.14256). 16 bits are plain f16 rows, [token][head_dim], which may be filled one by one.
//
// Codes lie so that neither a CPU's nor a GPU's 4 x 8 bit dot product (VNNI, dp4a) needs a shuffle, for d = head_dim:
//   keys    8 bits  [d/4][tokens][4]    byte = code                     word (quad c, token t): the numbers 4c..4c+3 of key t
//           4 bits  [d/8][tokens][4]    low half: quad 2i, high: 2i+1
//           2 bits  [d/16][tokens][4]   bits 2j..2j+1: quad 4i + j
//   values  the same with tokens and numbers changing places: [tokens/4][d][4], [tokens/8][d][4], [tokens/16][d][4]
// behind them their f16 parameters, see KvPart.
#pragma once

#include <cstdint>
#include <string>

namespace trimtab {

enum class KeyGroups : uint8_t { kChannel, kToken };

// What a page is packed with. Key and value widths are independent; all other choices belong to the quantiser of a whole cache.
struct KvQuantiser {
  KeyGroups key_groups = KeyGroups::kChannel;
  int64_t value_group = 0;       // numbers of a value that share a scale; 0: the whole head
  bool symmetric = false;
  bool key_norm = false;         // keys divided by their L2 norm, kept per token (with kChannel only)
  bool value_channel_scale = false;
  bool operator==(const KvQuantiser&) const = default;
};
struct KvBits {
  uint8_t key = 16, value = 16;   // 16, 8, 4, 2; both 0: evicted, no memory at all
  bool operator==(const KvBits&) const = default;
};

struct KvShape {
  int64_t head_dim = 0;   // multiple of 16, at most 512
  int64_t tokens = 0;     // of a page: at most 256, a multiple of 16 where it is packed
};

// Places within a page, bytes from its start. A place that does not exist is -1.
struct KvPart {
  int64_t codes = 0;
  int64_t scale = -1, zero = -1;   // f16: keys by channel [head_dim], by token [tokens]; values [groups][tokens]
  int64_t norm = -1;               // keys, f16 [tokens]
  int64_t channel = -1;            // values, f16 [head_dim]
};
struct KvLayout {
  KvPart key, value;
  int64_t bytes = 0;   // of the page, a multiple of 64
};

// Empty when the shape, quantiser and widths go together, else a sentence that says what to change.
std::string kv_format_fault(const KvShape& shape, const KvQuantiser& quantiser, KvBits bits);
KvLayout kv_layout(const KvShape& shape, const KvQuantiser& quantiser, KvBits bits);   // TT_CHECKs the same
inline int64_t value_group_of(const KvShape& s, const KvQuantiser& q) { return q.value_group == 0 ? s.head_dim : q.value_group; }

}  // namespace trimtab
