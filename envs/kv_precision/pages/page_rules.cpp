#include "envs/kv_precision/pages/page_rules.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/random.h"
#include "domain/kv_precision/nsga2.h"

namespace trimtab {
namespace {

constexpr KvBits kEvicted{0, 0};
constexpr int64_t kTrials = 2000;   // of KVTuner's search, which has 100: here a trial costs next to nothing

// What a KV head's pages may take together after `pages` of them.
int64_t head_ceiling(const PageRuleOptions& o, int64_t pages) {
  const KvSensitivity& t = o.table;
  return static_cast<int64_t>(std::floor(o.bits * static_cast<double>(2 * t.head_dim * t.page_tokens) / 8 + 1e-6)) * pages;
}

// A KV head's pages as a rule sees them. Larger scores are kept wide longer.
struct HeadView {
  const KvCache& cache;
  int64_t layer = 0, head = 0;
  const KvCache::Page& page(int64_t i) const { return cache.pages(layer, head)[i]; }
  double saliency(int64_t i) const {   // attention per query that can see it
    return page(i).mass / static_cast<double>(std::max<int64_t>(1, cache.tokens() - page(i).first_token));
  }
};
using Score = std::function<double(const HeadView&, int64_t page)>;

int64_t bytes_of(const KvCache& cache, int64_t layer, int64_t head) {
  int64_t sum = 0;
  for (const KvCache::Page& p : cache.pages(layer, head)) sum += cache.page_bytes(p.bits);
  return sum;
}

// New pages come at `wide`; while a head takes more than its share, its page of the least score among the wide ones becomes `narrow`.
PackPages two_widths(const PageRuleOptions& o, KvBits wide, KvBits narrow, Score score) {
  return [o, wide, narrow, score](KvCache& cache) {
    cache.pack(std::vector<KvBits>(cache.heads().count(), wide));
    const int64_t ceiling = head_ceiling(o, cache.num_pages());
    for (int64_t i = 0; i < cache.heads().count(); ++i) {
      const HeadView view{cache, i / cache.heads().kv_heads, i % cache.heads().kv_heads};
      for (int64_t bytes = bytes_of(cache, view.layer, view.head); bytes > ceiling;) {
        int64_t least = -1;
        for (int64_t p = 0; p < cache.num_pages(); ++p)
          if (view.page(p).bits == wide && (least < 0 || score(view, p) < score(view, least))) least = p;
        if (least < 0) break;   // all are narrow
        cache.demote(view.layer, view.head, least, narrow);
        bytes += cache.page_bytes(narrow) - cache.page_bytes(wide);
      }
    }
  };
}

Score newest_first() {
  return [](const HeadView&, int64_t p) { return static_cast<double>(p); };
}
Score most_salient_first() {
  return [](const HeadView& v, int64_t p) { return v.saliency(p); };
}
Score drawn(uint64_t seed) {
  return [seed](const HeadView& v, int64_t p) {
    return static_cast<double>(Draws(seed, Stream::kWorld, static_cast<uint32_t>(v.layer), static_cast<uint32_t>(v.head), static_cast<uint32_t>(p)).uniform());
  };
}
// The newest half of what fits at `kept` bytes is safe.
Score newest_and_heaviest(const PageRuleOptions& o, int64_t kept) {
  return [o, kept](const HeadView& v, int64_t p) {
    const int64_t pages = v.cache.num_pages(), newest = head_ceiling(o, pages) / kept / 2;
    return p >= pages - newest ? 1e9 + static_cast<double>(p) : v.saliency(p);
  };
}

// Share of each layer's attention, the same in all, whose pages together meet the budget; what is outside is evicted.
class PrefixRule {
 public:
  PrefixRule(const PageRuleOptions& options, KvBits kept) : options_(options), kept_(kept) {}
  void operator()(KvCache& cache) const {
    cache.pack(std::vector<KvBits>(cache.heads().count(), kept_));
    const int64_t ceiling = head_ceiling(options_, cache.num_pages()) * cache.heads().count();
    double low = 0, high = 1 + 1e-9;
    if (bytes_with(cache, high) > ceiling) {
      for (int i = 0; i < 40; ++i) {
        const double middle = (low + high) / 2;
        (bytes_with(cache, middle) > ceiling ? high : low) = middle;
      }
      evict(cache, low);
    }
  }

 private:
  // A layer's pages still there, from the heaviest down to where they hold `share` of its attention.
  std::vector<int64_t> kept_pages(const KvCache& cache, int64_t layer, double share) const {
    std::vector<std::pair<double, int64_t>> pages;
    double all = 0;
    for (int64_t p = 0; p < cache.num_pages(); ++p) {
      if (cache.pages(layer, 0)[p].bits == kEvicted) continue;
      double mass = 0;
      for (int64_t h = 0; h < cache.heads().kv_heads; ++h) mass += HeadView{cache, layer, h}.saliency(p);
      pages.emplace_back(mass, p), all += mass;
    }
    std::sort(pages.rbegin(), pages.rend());
    std::vector<int64_t> out;
    double held = 0;
    for (const auto& [mass, p] : pages) {
      if (held >= share * all) break;
      held += mass, out.push_back(p);
    }
    return out;
  }
  int64_t bytes_with(const KvCache& cache, double share) const {
    int64_t pages = 0;
    for (int64_t l = 0; l < cache.heads().layers; ++l) pages += static_cast<int64_t>(kept_pages(cache, l, share).size());
    return pages * cache.heads().kv_heads * cache.page_bytes(kept_);
  }
  void evict(KvCache& cache, double share) const {
    for (int64_t l = 0; l < cache.heads().layers; ++l) {
      const std::vector<int64_t> kept = kept_pages(cache, l, share);
      for (int64_t p = 0; p < cache.num_pages(); ++p)
        if (std::find(kept.begin(), kept.end(), p) == kept.end())
          for (int64_t h = 0; h < cache.heads().kv_heads; ++h) cache.demote(l, h, p, kEvicted);
    }
  }
  PageRuleOptions options_;
  KvBits kept_;
};

// The costliest of the table's pairs that fits everywhere, with this quantiser.
std::optional<KvPacking> widest_with(const PageRuleOptions& o, const KvCacheOptions& cache) {
  const KvSensitivity& t = o.table;
  const KvCache probe({t.layers, t.kv_heads, t.head_dim}, cache);
  std::optional<KvBits> best;
  for (const KvBits b : t.pairs)
    if (b != kEvicted && probe.page_bytes(b) <= head_ceiling(o, 1) && (!best || probe.page_bytes(b) > probe.page_bytes(*best))) best = b;
  if (!best) return std::nullopt;
  return KvPacking{cache, pack_all(std::vector<KvBits>(t.layers * t.kv_heads, *best))};
}

std::optional<KvPacking> own_quantiser(const std::string& name, const PageRuleOptions& o) {
  KvCacheOptions cache = o.cache;
  cache.key_groups = "channel", cache.symmetric = false, cache.value_channel_scale = false;
  cache.key_norm = name == "oscar", cache.rotate_keys = cache.rotate_values = name == "oscar";
  cache.value_group = name == "kivi" && o.table.head_dim % 32 == 0 ? 32 : 0;
  return widest_with(o, cache);
}

// "recency" and the like: which page is narrowed first, and the narrow width is the table's.
std::optional<KvPacking> two_width_rule(const std::string& name, const PageRuleOptions& o) {
  const std::vector<int> ladder = pair_ladder(o.table);
  const int64_t budget = o.table.bytes_at(o.bits);
  if (budget < least_bytes(o.table)) return std::nullopt;
  const auto narrow = std::find(ladder.begin(), ladder.end(), widest_uniform_pair(o.table, budget));
  const auto wide = narrow + std::min<ptrdiff_t>(2, ladder.end() - 1 - narrow);
  const Score score = name == "recency" ? newest_first() : name == "zipcache" ? most_salient_first() : drawn(o.seed);
  return KvPacking{o.cache, two_widths(o, o.table.pairs[*wide], o.table.pairs[*narrow], score), name == "zipcache"};
}

std::optional<KvPacking> evicting_rule(const std::string& name, const PageRuleOptions& o) {
  const uint8_t width = name.ends_with("_8") ? 8 : 4;
  const KvBits kept{width, width};
  const int64_t bytes = kv_layout({o.table.head_dim, o.table.page_tokens}, o.cache.quantiser(), kept).bytes;
  if (name.starts_with("prefix_kv")) return KvPacking{o.cache, PrefixRule(o, kept), true};
  if (name.starts_with("sinks_window")) return KvPacking{o.cache, two_widths(o, kept, kEvicted, newest_first())};
  return KvPacking{o.cache, two_widths(o, kept, kEvicted, newest_and_heaviest(o, bytes)), true};
}

std::optional<KvPacking> static_rule(const std::string& name, const PageRuleOptions& o) {
  const KvSensitivity& t = o.table;
  const int64_t budget = t.bytes_at(o.bits);
  if (budget < least_bytes(t)) return std::nullopt;
  const KvAllocation a = name == "uniform"           ? uniform_allocation(t, widest_uniform_pair(t, budget))
                         : name == "best_allocation" ? best_allocation(t, budget)
                         : name == "nsga2"           ? nsga2_allocation(t, budget, kTrials, o.seed)
                                                     : heuristic_allocation(t, name, budget, o.seed);
  return KvPacking{o.cache, pack_all(head_widths(t, a))};
}

bool is_fixed(const std::string& name) { return name.size() == 4 && name[0] == 'k' && name[2] == 'v' && name[1] <= '9'; }

}  // namespace

std::vector<std::string> page_rule_names() {
  std::vector<std::string> out = {"uniform", "k8v8", "k8v4", "k4v4", "k4v2", "k2v2"};
  for (const std::string& name : heuristic_names()) out.push_back(name);
  for (const char* name : {"nsga2", "random_pages", "recency", "zipcache", "sinks_window_4", "sinks_window_8", "heavy_hitters_4", "heavy_hitters_8",
                           "prefix_kv_4", "prefix_kv_8", "kivi", "oscar", "best_allocation"})
    out.push_back(name);
  return out;
}

bool needs_sensitivities(const std::string& name) { return name == "sensitive_first" || name == "nsga2" || name == "best_allocation"; }

std::optional<KvPacking> page_rule(const std::string& name, const PageRuleOptions& o) {
  if (is_fixed(name)) {
    const KvBits b{static_cast<uint8_t>(name[1] - '0'), static_cast<uint8_t>(name[3] - '0')};
    return KvPacking{o.cache, pack_all(std::vector<KvBits>(o.table.layers * o.table.kv_heads, b))};
  }
  if (name == "kivi" || name == "oscar") return own_quantiser(name, o);
  if (name == "recency" || name == "zipcache" || name == "random_pages") return two_width_rule(name, o);
  if (name.ends_with("_4") || name.ends_with("_8")) return evicting_rule(name, o);
  return static_rule(name, o);
}

}  // namespace trimtab
