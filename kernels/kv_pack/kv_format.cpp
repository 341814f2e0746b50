#include "kernels/kv_pack/kv_format.h"

#include <fmt/format.h>

#include "core/error.h"

namespace trimtab {
namespace {

constexpr int64_t kHalf = 2;   // bytes

bool is_width(int bits) { return bits == 16 || bits == 8 || bits == 4 || bits == 2; }

int64_t take(int64_t bytes, int64_t& used) {
  const int64_t at = used;
  used += bytes;
  return at;
}

void lay_out_parameters(KvPart& part, int64_t count, bool symmetric, int64_t& used) {
  part.scale = take(count * kHalf, used);
  if (!symmetric) part.zero = take(count * kHalf, used);
}

}  // namespace

std::string kv_format_fault(const KvShape& s, const KvQuantiser& q, KvBits bits) {
  if (s.head_dim < 16 || s.head_dim > 512 || s.head_dim % 16 != 0)
    return fmt::format("heads of {} numbers cannot be packed: a multiple of 16 up to 512 can", s.head_dim);
  const bool plain = bits == KvBits{16, 16};   // rows one after the other: any number of them
  if (s.tokens < 1 || s.tokens > 256 || (s.tokens % 16 != 0 && !plain))
    return fmt::format("pages of {} tokens: choose a multiple of 16 up to 256", s.tokens);
  if (q.value_group < 0 || (q.value_group > 0 && (q.value_group % 16 != 0 || s.head_dim % q.value_group != 0)))
    return fmt::format("value groups of {} numbers: choose a multiple of 16 that divides the head's {}", q.value_group, s.head_dim);
  if (q.key_norm && q.key_groups == KeyGroups::kToken) return "key_norm with one scale per token does nothing: use key_groups: channel";
  if (bits == KvBits{0, 0}) return "";
  if (!is_width(bits.key) || !is_width(bits.value))
    return fmt::format("widths of {} bits for keys and {} for values: each is 16, 8, 4 or 2, or both are 0 (evicted)", bits.key, bits.value);
  return "";
}

KvLayout kv_layout(const KvShape& s, const KvQuantiser& q, KvBits bits) {
  const std::string fault = kv_format_fault(s, q, bits);
  TT_CHECK(fault.empty(), "{}", fault);
  KvLayout out;
  if (bits == KvBits{0, 0}) return out;
  const int64_t numbers = s.head_dim * s.tokens;
  int64_t used = 0;
  out.key.codes = take(numbers * bits.key / 8, used);
  out.value.codes = take(numbers * bits.value / 8, used);
  if (bits.key < 16) {
    lay_out_parameters(out.key, q.key_groups == KeyGroups::kChannel ? s.head_dim : s.tokens, q.symmetric, used);
    if (q.key_norm) out.key.norm = take(s.tokens * kHalf, used);
  }
  if (bits.value < 16) {
    lay_out_parameters(out.value, s.tokens * (s.head_dim / value_group_of(s, q)), q.symmetric, used);
    if (q.value_channel_scale) out.value.channel = take(s.head_dim * kHalf, used);
  }
  out.bytes = (used + 63) / 64 * 64;
  return out;
}

}  // namespace trimtab
