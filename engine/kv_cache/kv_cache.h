// The keys and values of one sequence, packed page by page: a width for every layer, KV head and page.
//
// New tokens go to a tail of 16 bits. When the tail holds `page_tokens` they are packed, each head's with the widths it is given, and
// from then on a page can only become narrower (16, 8, 4, 2 bits, then 0: evicted, no memory at all). The first `sinks` tokens stay at
// 16 bits for good: attention leans on them (StreamingLLM, arXiv 2309.17453). Keys come with their rotary embedding, so the order of
// pages means nothing to attention, and each kernel call goes through pages of equal width one after the other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/options.h"
#include "kernels/attention_decode/attention_decode.h"
#include "kernels/kv_pack/kv_pack.h"

namespace trimtab {

struct KvCacheOptions {
  int64_t page_tokens = 32, sinks = 4;
  std::string key_groups = "channel";
  int64_t value_group = 0;
  bool symmetric = false, key_norm = false, value_channel_scale = false;
  bool rotate_keys = false, rotate_values = false;
  void describe(Fields& f);
  KvQuantiser quantiser() const;
};

struct KvHeads {
  int64_t layers = 0, kv_heads = 0, head_dim = 0;
  int64_t count() const { return layers * kv_heads; }
};

// Queries of one layer and KV head: `rows` tokens that were just written, `group` query heads each.
struct KvQueries {
  int64_t rows = 0, group = 1;
  float* q = nullptr;            // [rows, group, head_dim] at these strides, scaled; rotated in place if the cache rotates keys
  int64_t q_row = 0, q_head = 0;
  float* out = nullptr;          // likewise
  int64_t out_row = 0, out_head = 0;
};

class KvCache {
 public:
  struct Page {
    std::unique_ptr<uint8_t[]> memory;      // aligned to 64 from data() on
    KvBits bits;
    int64_t first_token = 0;
    float key_error = 0, value_error = 0;   // what packing lost, relative (of the last packing)
    float key_norm = 0, value_norm = 0;     // means of the tokens' L2 norms
    float mass = 0;                         // attention that its tokens have had so far, summed over queries (where tracked)
    const uint8_t* data() const;
  };

  // ConfigError when the options do not go with the heads.
  KvCache(const KvHeads& heads, const KvCacheOptions& options);

  int64_t tokens() const { return tokens_; }
  int64_t room() const;   // tokens that can be written before commit(), more than 0
  bool full() const;      // the tail must be packed before more is written

  // Token `row` of those since the last commit. DataError naming layer, head and token for a number that 16 bits cannot hold.
  void write(int64_t layer, int64_t head, int64_t row, const float* key, const float* value);
  // Row r sees all tokens up to itself. `track` adds to the pages' mass and returns the variance of the weights, mean over queries.
  float attend(int64_t layer, int64_t head, const KvQueries& queries, bool track = false);
  void commit(int64_t rows);   // all layers and heads have written and attended

  // The full tail becomes a page of every head: widths [layers, kv_heads].
  void pack(std::span<const KvBits> widths);
  // Makes a page narrower; both widths must be at most what they are.
  void demote(int64_t layer, int64_t head, int64_t page, KvBits bits);
  // What demote() to these widths would lose, relative, of keys and of values; an evicted page loses 1.
  struct PackingError {
    float key = 0, value = 0;
  };
  PackingError packing_error(int64_t layer, int64_t head, int64_t page, KvBits bits);

  const std::vector<Page>& pages(int64_t layer, int64_t head) const { return heads_[layer * shape_of_.kv_heads + head].pages; }
  int64_t num_pages() const { return static_cast<int64_t>(heads_.front().pages.size()); }
  int64_t bytes() const;                 // of all that is held, scales, sinks and tail included
  double bits_per_element() const;       // 8 bytes() over the numbers of all tokens seen, evicted ones included
  int64_t page_bytes(KvBits bits) const { return kv_layout(page_shape_, quantiser_, bits).bytes; }
  const KvHeads& heads() const { return shape_of_; }
  const KvCacheOptions& options() const { return options_; }

 private:
  struct Head {
    Page sink, tail;
    std::vector<Page> pages;
  };
  struct Room {   // scratch of attend() and pack()
    struct Call {   // of the kernel, for statistics when all of them are done
      KvShape shape;
      std::span<const KvPage> pages;
      int64_t first = 0, count = 0, weights = 0;   // queries; where their weights begin
    };
    std::vector<const float*> queries;
    std::vector<AttentionState> states;
    std::vector<KvPage> pages, plain;
    std::vector<int64_t> order;
    std::vector<Call> calls;
    size_t tail_calls = 0;   // where in `calls` those on the tail begin
    std::vector<float> weights, page_mass, squares, rows;
  };
  int64_t tail_tokens() const { return tokens_ - std::min(tokens_, options_.sinks) - packed_tokens_; }
  Page new_page(KvBits bits, const KvShape& shape) const;
  void repack(Page& page, KvBits bits);
  void attend_rows(const Page& page, const KvShape& shape, int64_t before, int64_t rows, int64_t group, bool track);
  void attend_pages(Head& h, bool track);
  void call(const KvShape& shape, std::span<const KvPage> pages, int64_t first, int64_t count, bool track);
  float variance_and_mass(Head& h, int64_t rows, int64_t group);
  std::string place(int64_t head) const;
  void unpack(const Page& page);   // into room_.rows: keys, then values

  KvHeads shape_of_;
  KvCacheOptions options_;
  KvQuantiser quantiser_;
  KvShape page_shape_, sink_shape_;
  std::vector<Head> heads_;   // [layers, kv_heads]
  int64_t tokens_ = 0, packed_tokens_ = 0;
  Room room_;
};

// Packs a full tail. It may demote older pages, too.
using PackPages = std::function<void(KvCache&)>;
PackPages pack_all(std::vector<KvBits> widths);   // always the same, [layers, kv_heads]

}  // namespace trimtab
