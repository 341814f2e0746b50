#include "engine/kv_cache/kv_cache.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "kernels/hadamard/hadamard.h"

namespace trimtab {
namespace {

constexpr uintptr_t kAlignment = 64;
constexpr KvBits kPlain{16, 16}, kEvicted{0, 0};

float mean_norm(const float* rows, int64_t num_rows, int64_t width) {
  double sum = 0;
  for (int64_t r = 0; r < num_rows; ++r) {
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) squares += double{rows[r * width + i]} * rows[r * width + i];
    sum += std::sqrt(squares);
  }
  return static_cast<float>(sum / static_cast<double>(num_rows));
}

}  // namespace

void KvCacheOptions::describe(Fields& f) {
  f.integer("page_tokens", page_tokens, {.low = 16, .high = 256, .unit = "tokens", .doc = "of a page, a multiple of 16: what has one width, and the longest tail at 16 bits"});
  f.integer("sinks", sinks, {.low = 0, .high = 256, .unit = "tokens", .doc = "first tokens that stay at 16 bits"});
  f.choice("key_groups", key_groups, {"channel", "token"}, "what shares a scale of keys: a channel along the page's tokens, or one token");
  f.integer("value_group", value_group, {.low = 0, .high = 512, .doc = "numbers of a value that share a scale, a multiple of 16; 0: the whole head"});
  f.flag("symmetric", symmetric, "no zero points");
  f.flag("key_norm", key_norm, "keys are divided by their norm first (OScaR); with key_groups: channel");
  f.flag("value_channel_scale", value_channel_scale, "values are divided by the root of their channel's largest first (ZipCache)");
  f.flag("rotate_keys", rotate_keys, "keys and queries go through a Hadamard rotation; heads of a power of two");
  f.flag("rotate_values", rotate_values, "values too, and the result back");
}

KvQuantiser KvCacheOptions::quantiser() const {
  return {key_groups == "channel" ? KeyGroups::kChannel : KeyGroups::kToken, value_group, symmetric, key_norm, value_channel_scale};
}

const uint8_t* KvCache::Page::data() const {
  return reinterpret_cast<const uint8_t*>((reinterpret_cast<uintptr_t>(memory.get()) + kAlignment - 1) / kAlignment * kAlignment);
}

KvCache::KvCache(const KvHeads& heads, const KvCacheOptions& options)
    : shape_of_(heads), options_(options), quantiser_(options.quantiser()), page_shape_{heads.head_dim, options.page_tokens},
      sink_shape_{heads.head_dim, options.sinks} {
  const std::string fault = kv_format_fault(page_shape_, quantiser_, {8, 8});
  if (!fault.empty()) throw ConfigError(fault);
  if ((options.rotate_keys || options.rotate_values) && !hadamard_exists(heads.head_dim))
    throw ConfigError(fmt::format("heads of {} numbers have no Hadamard rotation: a power of two has; set rotate_keys and rotate_values to false", heads.head_dim));
  for (int64_t i = 0; i < heads.count(); ++i) {
    Head& h = heads_.emplace_back();
    if (options.sinks > 0) h.sink = new_page(kPlain, sink_shape_);
    h.tail = new_page(kPlain, page_shape_);
  }
}

KvCache::Page KvCache::new_page(KvBits bits, const KvShape& shape) const {
  Page page;
  page.bits = bits;
  const int64_t bytes = kv_layout(shape, quantiser_, bits).bytes;
  if (bytes > 0) page.memory.reset(new uint8_t[bytes + kAlignment]);
  return page;
}

int64_t KvCache::room() const { return tokens_ < options_.sinks ? options_.sinks - tokens_ : options_.page_tokens - tail_tokens(); }
bool KvCache::full() const { return room() == 0; }

std::string KvCache::place(int64_t head) const { return fmt::format("layer {}, KV head {}", head / shape_of_.kv_heads, head % shape_of_.kv_heads); }

void KvCache::write(int64_t layer, int64_t head, int64_t row, const float* key, const float* value) {
  TT_CHECK(row >= 0 && row < room(), "row {} of {}", row, room());
  Head& h = heads_[layer * shape_of_.kv_heads + head];
  const bool sink = tokens_ + row < options_.sinks;
  float rotated[2][512];
  const int64_t d = shape_of_.head_dim;
  const auto turned = [&](const float* x, bool rotate, float* room) {
    if (!rotate) return x;
    std::copy(x, x + d, room);
    hadamard(1, d, room, d);
    return static_cast<const float*>(room);
  };
  const float *k = turned(key, options_.rotate_keys, rotated[0]), *v = turned(value, options_.rotate_values, rotated[1]);
  Page& page = sink ? h.sink : h.tail;
  if (!kv_append(sink ? sink_shape_ : page_shape_, sink ? tokens_ + row : tail_tokens() + row, k, v, const_cast<uint8_t*>(page.data())))
    throw DataError(fmt::format("token {}: {} has a key or value that is not finite or beyond f16's 65504: is this a trained model?", tokens_ + row,
                                place(layer * shape_of_.kv_heads + head)));
}

void KvCache::commit(int64_t rows) {
  TT_CHECK(rows >= 0 && rows <= room(), "{} rows of {}", rows, room());
  tokens_ += rows;
}

void KvCache::call(const KvShape& shape, std::span<const KvPage> pages, int64_t first, int64_t count, bool track) {
  const int64_t stride = attention_weights(static_cast<int64_t>(pages.size()), shape);
  float* weights = nullptr;
  if (track) {
    const size_t used = room_.weights.size();
    room_.weights.resize(used + count * stride);
    weights = room_.weights.data() + used;
  }
  attention_decode({shape, quantiser_, pages, std::span(room_.queries).subspan(first, count), std::span(room_.states).subspan(first, count), weights, stride});
  if (track) room_.calls.push_back({shape, pages, first, count, static_cast<int64_t>(weights - room_.weights.data())});
}

// A page at 16 bits that is still being filled: `before` of its tokens came earlier, then row r's, which sees no later one. A page
// that came before all rows is seen whole, by all of them in one call.
void KvCache::attend_rows(const Page& page, const KvShape& shape, int64_t before, int64_t rows, int64_t group, bool track) {
  if (before >= shape.tokens) {
    room_.plain.push_back({page.data(), kPlain, static_cast<int32_t>(shape.tokens), 0});
    return call(shape, {&room_.plain.back(), 1}, 0, rows * group, track);
  }
  for (int64_t r = 0; r < rows; ++r) {
    room_.plain.push_back({page.data(), kPlain, static_cast<int32_t>(std::min(shape.tokens, before + r + 1)), 0});
    call(shape, {&room_.plain.back(), 1}, r * group, group, track);
  }
}

void KvCache::attend_pages(Head& h, bool track) {
  room_.order.resize(h.pages.size());
  std::iota(room_.order.begin(), room_.order.end(), 0);
  std::erase_if(room_.order, [&](int64_t p) { return h.pages[p].bits == kEvicted; });
  std::stable_sort(room_.order.begin(), room_.order.end(), [&](int64_t a, int64_t b) {
    const KvBits x = h.pages[a].bits, y = h.pages[b].bits;
    return std::pair(x.key, x.value) > std::pair(y.key, y.value);
  });
  room_.pages.clear();
  for (const int64_t p : room_.order)
    room_.pages.push_back({h.pages[p].data(), h.pages[p].bits, static_cast<int32_t>(page_shape_.tokens), h.pages[p].value_error});
  if (!room_.pages.empty()) call(page_shape_, room_.pages, 0, static_cast<int64_t>(room_.queries.size()), track);
}

float KvCache::variance_and_mass(Head& h, int64_t rows, int64_t group) {
  room_.squares.assign(room_.queries.size(), 0);
  room_.page_mass.assign(room_.pages.size(), 0);
  for (size_t i = 0; i < room_.calls.size(); ++i) {
    const Room::Call& c = room_.calls[i];
    const bool pages = c.pages.data() == room_.pages.data(), tail = i >= room_.tail_calls;
    const AttentionDecode made{c.shape, quantiser_, c.pages, std::span(room_.queries).subspan(c.first, c.count),
                               std::span(room_.states).subspan(c.first, c.count), room_.weights.data() + c.weights,
                               attention_weights(static_cast<int64_t>(c.pages.size()), c.shape)};
    attention_statistics(made, {nullptr, pages ? room_.page_mass.data() : tail ? &h.tail.mass : nullptr, nullptr, room_.squares.data() + c.first});
  }
  for (size_t p = 0; p < room_.pages.size(); ++p) h.pages[room_.order[p]].mass += room_.page_mass[p];
  double variance = 0;
  for (int64_t q = 0; q < rows * group; ++q) {
    const double n = static_cast<double>(tokens_ + q / group + 1);
    variance += room_.squares[q] / n - 1 / (n * n);
  }
  return static_cast<float>(variance / static_cast<double>(rows * group));
}

float KvCache::attend(int64_t layer, int64_t head, const KvQueries& x, bool track) {
  Head& h = heads_[layer * shape_of_.kv_heads + head];
  const int64_t d = shape_of_.head_dim;
  room_.queries.clear(), room_.states.clear(), room_.weights.clear(), room_.calls.clear(), room_.plain.clear();
  room_.plain.reserve(2 * x.rows);   // calls keep their places
  for (int64_t r = 0; r < x.rows; ++r)
    for (int64_t g = 0; g < x.group; ++g) {
      float* q = x.q + r * x.q_row + g * x.q_head;
      if (options_.rotate_keys) hadamard(1, d, q, d);
      room_.queries.push_back(q);
      room_.states.push_back({0, 0, x.out + r * x.out_row + g * x.out_head});
    }
  begin_attention(room_.states, d);
  if (options_.sinks > 0) attend_rows(h.sink, sink_shape_, tokens_, x.rows, x.group, track);
  attend_pages(h, track);
  room_.tail_calls = room_.calls.size();
  if (tokens_ >= options_.sinks) attend_rows(h.tail, page_shape_, tail_tokens(), x.rows, x.group, track);
  finish_attention(room_.states, d);
  if (options_.rotate_values)
    for (const AttentionState& s : room_.states) hadamard(1, d, s.out, d);
  return track ? variance_and_mass(h, x.rows, x.group) : 0;
}

void KvCache::pack(std::span<const KvBits> widths) {
  TT_CHECK(full() && tokens_ > options_.sinks, "{} tokens in the tail", tail_tokens());
  TT_CHECK_EQ(static_cast<int64_t>(widths.size()), shape_of_.count());
  for (int64_t i = 0; i < shape_of_.count(); ++i) {
    Head& h = heads_[i];
    Page& page = h.pages.emplace_back(std::exchange(h.tail, new_page(kPlain, page_shape_)));
    page.first_token = tokens_ - options_.page_tokens;
    repack(page, widths[i]);
  }
  packed_tokens_ += options_.page_tokens;
}

void KvCache::demote(int64_t layer, int64_t head, int64_t page, KvBits bits) {
  Page& p = heads_[layer * shape_of_.kv_heads + head].pages.at(page);
  TT_CHECK(bits.key <= p.bits.key && bits.value <= p.bits.value, "from {}/{} to {}/{} bits: a page only becomes narrower", p.bits.key, p.bits.value, bits.key,
           bits.value);
  repack(p, bits);
}

void KvCache::repack(Page& page, KvBits bits) {
  const std::string fault = kv_format_fault(page_shape_, quantiser_, bits);
  if (!fault.empty()) throw ConfigError(fault);
  if (bits == page.bits && page.key_norm > 0) return;
  if (page.bits == kEvicted) return;
  unpack(page);
  const int64_t d = shape_of_.head_dim;
  const float *keys = room_.rows.data(), *values = keys + page_shape_.tokens * d;
  if (page.bits == kPlain) page.key_norm = mean_norm(keys, page_shape_.tokens, d), page.value_norm = mean_norm(values, page_shape_.tokens, d);
  if (bits == page.bits) return;
  Page narrow = new_page(bits, page_shape_);
  if (bits != kEvicted) {
    const KvPackResult r = kv_pack({page_shape_, quantiser_, bits, keys, values, d, const_cast<uint8_t*>(narrow.data())});
    TT_CHECK(r.bad_token < 0, "a page of 16 bits holds token {} beyond them", r.bad_token);
    page.key_error = r.key_error, page.value_error = r.value_error;
  }
  page.memory = std::move(narrow.memory), page.bits = bits;
}

void KvCache::unpack(const Page& page) {
  const int64_t d = shape_of_.head_dim, n = page_shape_.tokens * d;
  room_.rows.resize(2 * n);
  kv_unpack({page_shape_, quantiser_, page.bits, page.data(), room_.rows.data(), room_.rows.data() + n, d});
}

KvCache::PackingError KvCache::packing_error(int64_t layer, int64_t head, int64_t page, KvBits bits) {
  const Page& p = heads_[layer * shape_of_.kv_heads + head].pages.at(page);
  if (bits == p.bits) return {p.key_error, p.value_error};
  if (bits == kEvicted || p.bits == kEvicted) return {1, 1};
  unpack(p);
  const int64_t d = shape_of_.head_dim;
  Page trial = new_page(bits, page_shape_);
  const float* keys = room_.rows.data();
  const KvPackResult r = kv_pack({page_shape_, quantiser_, bits, keys, keys + page_shape_.tokens * d, d, const_cast<uint8_t*>(trial.data())});
  return {r.key_error, r.value_error};
}

PackPages pack_all(std::vector<KvBits> widths) {
  return [widths = std::move(widths)](KvCache& cache) { cache.pack(widths); };
}

int64_t KvCache::bytes() const {
  const int64_t plain = shape_of_.head_dim * 4 * (std::min(tokens_, options_.sinks) + tail_tokens());
  int64_t sum = plain * shape_of_.count();
  for (const Head& h : heads_)
    for (const Page& p : h.pages) sum += page_bytes(p.bits);
  return sum;
}

double KvCache::bits_per_element() const {
  const int64_t numbers = tokens_ * 2 * shape_of_.head_dim * shape_of_.count();
  return numbers == 0 ? 0 : 8.0 * static_cast<double>(bytes()) / static_cast<double>(numbers);
}

}  // namespace trimtab
