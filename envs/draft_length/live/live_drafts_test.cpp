// A live pair: greedy it decodes what a recording replays, sampled it has the target's law whatever decides the lengths, and it goes on
// from any place as if it had never left it.
#include "envs/draft_length/live/live_drafts.h"

#include <gtest/gtest.h>
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <cmath>

#include "core/error.h"
#include "core/random.h"
#include "core/test_support.h"
#include "engine/speculative/draft_recorder.h"
#include "envs/draft_length/draft_length.h"
#include "envs/draft_length/recorded.h"

namespace trimtab {
namespace {

const bool kOneThread = (at::set_num_threads(1), true);   // small problems

LanguageModel model_of(int64_t hidden, int64_t layers, uint64_t seed, float scale, const std::string& alphabet = "abcde") {
  ArchitectureOptions a;
  a.hidden_size = hidden, a.num_layers = layers, a.num_heads = 2, a.head_dim = 16, a.max_positions = 256;
  LanguageModel out = LanguageModel::create(a, {{"tokenizer.json", character_tokenizer_json(alphabet)}}, seed);
  const at::NoGradGuard no_grad;
  for (const auto& [name, p] : out.transformer->parameters())
    if (p.dim() == 2) p.mul_(scale);
  return out;
}

std::vector<PromptLine> prompts_of(int64_t count) {
  Draws draws(test_seed(), Stream::kTest, 31);
  std::vector<PromptLine> out;
  for (int64_t i = 0; i < count; ++i) {
    PromptLine& p = out.emplace_back();
    p.place = fmt::format("prompts:{}", i + 1);
    for (int64_t n = 3 + draws.below(120); n > 0; --n) p.text += static_cast<char>('a' + draws.below(5));
  }
  return out;
}

std::vector<DraftLength::RoundOutcome> rounds_of(const DraftLength& env, int64_t text, uint64_t seed, const std::function<int64_t(const DraftLength::State&)>& length) {
  DraftLength::State s;
  env.begin(s, {seed, static_cast<uint64_t>(text)}, text, 1);
  std::vector<DraftLength::RoundOutcome> out;
  while (out.empty() || !out.back().over) {
    const int64_t k = std::min(length(s), s.most);
    while (s.depth < k) env.draft(s);
    out.push_back(env.finish_round(s));
  }
  return out;
}

DraftLengthOptions live_options(double temperature, int64_t max_tokens) {
  DraftLengthOptions o;
  o.mode = "live", o.live.temperature = temperature, o.live.max_tokens = max_tokens, o.live.depth = 4;
  return o;
}

TEST(live_drafts, greedy_is_what_the_recording_replays) {
  const auto prompts = prompts_of(6);
  const DraftLengthOptions o = live_options(0, 30);
  const LanguageModel target = model_of(40, 2, test_seed() + 1, 6), draft = model_of(24, 1, test_seed() + 2, 6);
  Pool pool(1);
  std::vector<RecordedText> texts;
  std::vector<GenerationRequest> requests;
  for (const PromptLine& p : prompts) requests.push_back({.prompt = target.tokenizer->encode(p.text, {}), .max_tokens = 30});
  for (const auto& c : Generator(*target.transformer).generate(requests, {.max_tokens = 30, .temperature = 0}, {.ids = target.tokenizer->stop_ids()}, 1, pool)) texts.push_back({requests[c.request].prompt, c.tokens, {}});
  const TemporaryFolder folder;
  const std::string file = folder.path() / "r.safetensors";
  write_recording(file, record_drafts(*target.transformer, *draft.transformer, texts, {.depth = 4, .sampling = {.temperature = 0}}, pool));
  const DraftLength live(o, make_live_drafts(model_of(40, 2, test_seed() + 1, 6), model_of(24, 1, test_seed() + 2, 6), prompts, o.live)), replay({}, open_draft_recordings({file}));
  int64_t accepted = 0;
  for (int64_t t = 0; t < live.source().texts(); ++t)
    for (const int64_t k : {0, 1, 4}) {
      const auto a = rounds_of(live, t, 1, [k](const auto&) { return k; }), b = rounds_of(replay, t, 1, [k](const auto&) { return k; });
      ASSERT_EQ(a.size(), b.size()) << t << " " << k;
      for (size_t i = 0; i < a.size(); ++i) {
        EXPECT_EQ(a[i].accepted, b[i].accepted);
        EXPECT_EQ(a[i].tokens, b[i].tokens);
        accepted += a[i].accepted;
      }
    }
  EXPECT_GT(accepted, 5);
}

// Chi-square over all pairs of the first two tokens, with lengths that go by everything a rule may see.
TEST(live_drafts, sampled_has_the_targets_law) {
  constexpr int64_t kSamples = 6000;
  PromptLine prompt{.place = "here", .text = "abecab", .tokens = {}};
  const DraftLengthOptions o = live_options(0.8, 3);
  const LanguageModel target = model_of(24, 2, test_seed() + 7, 3);
  const int64_t vocab = target.transformer->config().vocab_size;
  std::vector<double> law;
  const std::vector<int32_t> ids = target.tokenizer->encode(prompt.text, {});
  {
    const at::NoGradGuard no_grad;
    for (int64_t a = 0; a < vocab; ++a) {
      std::vector<int64_t> text(ids.begin(), ids.end());
      text.push_back(a);
      Trie trie;
      trie.add(-1, static_cast<int64_t>(text.size()));
      const at::Tensor p = at::softmax(target.transformer->logits(at::tensor(text, at::kLong), trie).to(at::kDouble) / 0.8, -1);
      const int64_t last = static_cast<int64_t>(ids.size());
      for (int64_t b = 0; b < vocab; ++b) law.push_back(p[last - 1][a].item<double>() * p[last][b].item<double>());
    }
  }
  const auto source = make_live_drafts(model_of(24, 2, test_seed() + 7, 3), model_of(16, 1, test_seed() + 8, 3), {prompt}, o.live);
  for (const int rule : {0, 1, 2}) {
    std::vector<double> counts(law.size());
    int64_t two = 0;
    for (uint64_t n = 0; n < kSamples; ++n) {
      DraftPlace place;
      place.key = {test_seed(), n};
      source->begin(place, 0);
      while (source->left(place) > 0 && place.position < 2) {
        int64_t k = 0;
        while (k < 3 && (rule == 0 ? k < 2 : rule == 1 ? source->drafted(place, k).entropy < 1.5f || k == 0 : (k > 0 ? source->drafted(place, k - 1).token % 2 : place.position) == 0)) ++k;
        int64_t accepted = 0;
        while (accepted < k && source->look(place, accepted).accepted) ++accepted;
        const int64_t tokens = source->committed(place, accepted + 1), before = place.position;
        source->advance(place, accepted + 1);
        ASSERT_EQ(place.position - before, tokens);
      }
      if (place.position < 2) continue;   // an ending came first
      counts[place.tokens[0] * vocab + place.tokens[1]] += 1, ++two;
    }
    double chi_square = 0, total = 0;
    int cells = 0;
    const auto stops = target.tokenizer->stop_ids();
    const auto ends = [&](int64_t a) { return std::find(stops.begin(), stops.end(), a) != stops.end(); };
    for (size_t i = 0; i < law.size(); ++i) total += ends(static_cast<int64_t>(i) / vocab) ? 0 : law[i];
    for (size_t i = 0; i < law.size(); ++i) {
      const double expected = law[i] / total * static_cast<double>(two);
      if (expected < 5 || ends(static_cast<int64_t>(i) / vocab)) continue;
      chi_square += (counts[i] - expected) * (counts[i] - expected) / expected, ++cells;
    }
    ASSERT_GT(cells, 3);
    EXPECT_LT(chi_square, cells + 5 * std::sqrt(2.0 * cells)) << "rule " << rule << ", " << cells << " cells";
  }
}

// More places than are kept, in turns, from two threads, and through an archive: every text goes on as if alone.
TEST(live_drafts, a_text_does_not_depend_on_what_is_stepped_beside_it) {
  const auto prompts = prompts_of(3);
  const DraftLengthOptions o = live_options(1, 12);
  const auto make = [&] { return make_live_drafts(model_of(24, 1, test_seed() + 4, 4), model_of(16, 1, test_seed() + 5, 4), prompts, o.live); };
  const auto play = [](const DraftSource& source, DraftPlace& place) {
    int64_t accepted = 0;
    while (accepted < 2 && source.look(place, accepted).accepted) ++accepted;
    source.advance(place, accepted + 1);
  };
  const auto alone = make(), crowded = make();
  constexpr uint64_t kPlaces = 150;
  std::vector<DraftPlace> places(kPlaces);
  for (uint64_t i = 0; i < kPlaces; ++i) places[i].key = {5, i}, crowded->begin(places[i], static_cast<int64_t>(i % 3));
  for (bool any = true; any;) {
    any = false;
    for (DraftPlace& p : places) {
      if (crowded->left(p) <= 0) continue;
      Archive saved = Archive::writer();
      saved(p);
      Archive read = Archive::reader(saved.bytes());
      DraftPlace again;
      read(again);
      p = again;
      if (p.key.episode % 2 == 0) std::thread([&] { play(*crowded, p); }).join();
      else play(*crowded, p);
      any = true;
    }
  }
  for (uint64_t i = 0; i < kPlaces; i += 7) {
    DraftPlace p;
    p.key = {5, i};
    alone->begin(p, static_cast<int64_t>(i % 3));
    while (alone->left(p) > 0) play(*alone, p);
    EXPECT_EQ(p.tokens, places[i].tokens) << i;
  }
}

TEST(live_drafts, refuses_what_makes_no_pair) {
  const auto prompts = prompts_of(1);
  LiveDraftOptions o;
  o.max_tokens = 200;
  EXPECT_THROW(make_live_drafts(model_of(24, 1, 1, 1), model_of(16, 1, 1, 1, "abcdef"), prompts, {}), ConfigError);
  EXPECT_THROW(make_live_drafts(model_of(24, 1, 1, 1), model_of(16, 1, 1, 1, "edcbf"), prompts, {}), ConfigError);
  try {
    make_live_drafts(model_of(24, 1, 1, 1), model_of(16, 1, 1, 1), {{.place = "p.jsonl:1", .text = std::string(60, 'a'), .tokens = {}}}, o);
    FAIL();
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("p.jsonl:1"), std::string::npos);
  }
  DraftLengthOptions none;
  none.mode = "live";
  EXPECT_THROW(open_drafts(none, {}), ConfigError);
}

}  // namespace
}  // namespace trimtab
