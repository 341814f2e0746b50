// Widths of a KV cache while a model reads, page by page: the mode `pages` of kv_precision.
//
// An episode is one text under one budget. Whenever a page of tokens is full, one step per unit (layer or KV head, as the table has
// them) chooses the widths of its new page among those that the budget allows; before that, pages of certain ages are looked at again
// and may become narrower, which frees bytes. Then the model reads on, with the real packed cache, until the next page is full.
//
// The budget is hard: after every page, all packed pages together take at most `bits` per number of the text so far. What is not
// spent stays for later pages. `slack` softens the limit by that share, and then what exceeds the budget is charged at a price that
// rises and falls with the mean excess of each episode (dual ascent): no fixed weight of bytes, which would make widths flip all at
// once (research on Don't Waste Bits, arXiv 2604.04722, found such a switch).
//
// Reward terms: `kl`, minus the KL from the 16-bit model of the tokens read since, over what the relaxed surrogate problem
// (domain/kv_precision) expects of the whole text, so that a return near -1 is what a static optimum would have; `overspend`; and
// `shaping`, the difference of a potential (Ng, Harada and Russell 1999), minus the surrogate KL still to come from the widths chosen
// so far: it tells a step at once what its widths are likely to cost, and sums to zero over an episode.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "domain/kv_precision/allocation.h"
#include "engine/cached_forward/kv_quality.h"
#include "engine/text_pieces/text_pieces.h"
#include "envs/environment.h"
#include "envs/evaluation.h"

namespace trimtab {

struct KvPagesOptions {
  std::string mode = "pages", model, table;
  int64_t window = 1024, pieces = 0;
  double low_bits = 2.5, high_bits = 6, slack = 0, dual_rate = 1;
  std::vector<int64_t> review_ages = {1, 2, 4, 8, 16, 32, 64};
  bool shaping = true;
  void describe(Fields& f);
  void validate() const;
};

// A model, the sensitivities measured on it and texts to read; shared by all instances of a run.
struct KvPagesWorld {
  LanguageModel model;
  std::unique_ptr<CachedModel> cached;
  KvSensitivity table;
  KvCacheOptions cache;              // what the table was measured with
  std::vector<TextPiece> pieces;     // each long enough for a decision
  std::vector<std::vector<double>> truth;   // of each piece, plain_log_probabilities(); empty where they would take too much memory
  // ConfigError, DataError: also when the table was measured on another model.
  static std::shared_ptr<const KvPagesWorld> open(const KvPagesOptions& options, const std::vector<std::string>& texts);
};

class KvPages {
 public:
  // What is known of a page since it filled.
  struct PageFacts {
    float entropy = 0, confidence = 0, rarity = 0;   // of Don't Waste Bits' four, means over its tokens
    std::vector<float> variance;                     // the fourth, per layer
    double even_mass = 0, even_since_filled = 0;     // attention a query head would have given it if it looked everywhere alike
  };
  struct UnitFacts {   // of a page of one unit
    int pair = -1;     // -1: not decided, still at 16 bits
    float key_norm = 0, value_norm = 0;              // means over tokens and heads
    double mass = 0, recent_mass = 0;                // attention it had, summed over queries, mean over heads; since the last page
    std::vector<KvCache::PackingError> errors;       // [pairs]
  };
  struct Decision {
    int32_t page = 0, unit = 0;
  };
  struct MassByAge {   // attention that a unit's pages of one age (log2) had in one more page of text, and even attention since they filled
    double mass = 0, even = 0;
  };
  static constexpr int64_t kAges = 16;
  struct Episode {
    Episode(const KvPagesWorld& world, int64_t piece);
    const TextPiece& text;
    KvSideBySide reader;
    std::vector<PageFacts> pages;
    std::vector<UnitFacts> units;                    // [pages, units]
    std::vector<Decision> queue;
    size_t at = 0;
    double price = 0;                                // of a byte: where the pages' expected KL and the budget balance
    std::vector<int32_t> seen;                       // how often each token came
    std::vector<MassByAge> by_age;                   // [units, kAges]
    PageFacts filling;
    int64_t used = 0;                                // bytes of decided pages
    double surrogate = 0;                            // sum of the table's KLs over decided pages
    double overspend = 0;
    int64_t windows = 0;
  };
  struct State {
    WorldKey key;
    int32_t piece = 0;
    double bits = 0, dual = 0;
    std::vector<uint8_t> choices;                    // so far: an open episode is saved as these, and read again
    std::unique_ptr<Episode> episode;
    double scale = 1, price = 0;
  };

  KvPages(const KvPagesOptions& options, std::shared_ptr<const KvPagesWorld> world);

  const EnvSpec& spec() const { return spec_; }
  void reset(State& s, WorldKey key) const;
  void begin(State& s, int64_t piece, double bits) const;   // a given text and budget
  void observe(const State& s, int agent, ObservationRows out) const;
  void observe_critic(const State& s, ObservationRows out) const { observe(s, 0, out); }
  void act(State& s, int agent, const float* action) const;
  // For supervised training: the allowed pair of the least expected KL plus the price of its bytes, where a page's expected KL is the
  // table's times the attention that pages of its age have had so far in this text (and half of how far the page itself differed from
  // them), and the price is the one at which all pages together meet the budget. Don't Waste Bits (arXiv 2604.04722) does not say how
  // its labels are made; these weigh quality against cost as its loss does.
  int label(const State& s, int agent) const;
  StepOutcome step(State& s, float* terms) const;
  void serialise(State& s, Archive& a) const;
  template <class Add>
  void episode_statistics(const State& s, const Add& add) const {
    const KvScore score = s.episode->reader.score(0);
    add("kl_to_16bit", score.kl);
    add("bits_per_element", score.bits_per_element);
    add("page_bits", page_bits(s));
    add("dual", s.dual);
  }

  const KvPagesWorld& world() const { return *world_; }
  bool allowed(const State& s, int64_t pair) const;
  double page_bits(const State& s) const;            // of decided pages, per number
  double expected_mass(const Episode& e, const Decision& d) const;   // attention to come, over what even attention gives

 private:
  bool read_on(State& s, double& kl) const;        // to the next full page, which it packs at 16 bits; false at the end of the text
  void read_chunk(Episode& e, double& kl) const;
  void note_masses(Episode& e, int64_t before) const;
  void fill(Episode& e) const;
  void queue_decisions(Episode& e) const;
  void note_ages(Episode& e) const;
  double page_price(const State& s) const;
  int64_t bytes_at_price(const Episode& e, double price) const;
  double priced(const Decision& d, double weight, double price, int pair) const;
  template <class Allowed>
  int best_priced(const Episode& e, const Decision& d, double price, const Allowed& allowed) const;   // of least priced(); -1: none is
  void apply(State& s, int pair) const;
  void show_page(const State& s, const Decision& d, float* context) const;
  void show_widths(const State& s, const Decision& d, double left, ObservationRows out) const;
  double potential(const State& s) const;
  int64_t ceiling(const State& s) const;
  int64_t num_fills(const TextPiece& text) const;
  UnitFacts& facts(Episode& e, const Decision& d) const { return e.units[d.page * world_->table.units() + d.unit]; }
  const UnitFacts& facts(const Episode& e, const Decision& d) const { return e.units[d.page * world_->table.units() + d.unit]; }
  bool is_review(const Episode& e) const { return e.queue[e.at].page + 1 < static_cast<int32_t>(e.pages.size()); }
  bool narrows(int from, int to) const;

  KvPagesOptions options_;
  std::shared_ptr<const KvPagesWorld> world_;
  EnvSpec spec_;
};

KvPagesOptions kv_pages_options(const Config& config);   // of the env block
std::unique_ptr<Evaluator> make_pages_evaluator(const Config& config, const std::string& file);

}  // namespace trimtab
