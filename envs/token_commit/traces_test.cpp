// Traces: every state is rebuilt as it was, answers may interleave, and files that hold what no generator does are refused.
#include "envs/token_commit/traces.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/test_support.h"
#include "envs/token_commit/features.h"
#include "envs/token_commit/traced_worlds.h"

namespace trimtab {
namespace {

struct Shown {
  std::vector<float> context, items;
  std::vector<uint8_t> mask;
  bool operator==(const Shown&) const = default;
};
Shown shown(const CommitView& view, const CommitState& s) {
  const ObservationSpec& spec = view.spec();
  Shown out{std::vector<float>(spec.context_size()), std::vector<float>(spec.max_items * spec.item_size()), std::vector<uint8_t>(spec.max_items)};
  view.show(s, {out.context.data(), out.items.data(), out.mask.data()});
  return out;
}

// What a pass looked like when it happened.
struct Seen {
  int64_t sequence = 0, pass = 0;
  Shown view;
  std::vector<int32_t> tokens, picks, beyond;
  bool ended = false, forced = false;
};

TracedWorld blocks_world() { return {.length = 24, .block = 8, .beyond = 5, .hidden = 6}; }

TEST(commit_traces, every_state_is_rebuilt_bit_for_bit_however_answers_interleave) {
  const TemporaryFolder folder;
  const TracedWorld worlds[] = {{}, blocks_world()};
  for (const TracedWorld& world : worlds) {
    const CommitView view({.items = 7, .projected = world.hidden > 0 ? 3 : 0, .hidden_size = world.hidden});
    CommitTraces traces({.hidden = world.hidden > 0});
    std::vector<FakeAnswer> answers;
    std::vector<Seen> seen;
    for (int64_t a = 0; a < 5; ++a) answers.emplace_back(world, a, test_seed()), traces.begin(a, {{"prompt", std::to_string(a)}}, a);   // each from another pass on
    for (bool going = true; going;) {
      going = false;
      for (FakeAnswer& answer : answers) {
        if (answer.over()) continue;
        going = true;
        const CommitState& s = answer.propose();
        if (s.pass >= s.sequence) {
          Seen& it = seen.emplace_back(s.sequence, s.pass, shown(view, s), std::vector<int32_t>(s.tokens.begin(), s.tokens.end()), answer.picks());
          it.ended = s.ended, it.forced = answer.forced();
          for (const MaskedPosition& m : s.beyond) it.beyond.push_back(m.token);
        }
        traces.see(s, answer.picks(), answer.forced()), answer.commit();
      }
    }
    for (int64_t a = 0; a < 5; ++a) EXPECT_TRUE(traces.end(a, answers[a].canvas(), {{"correct", "1"}}));
    EXPECT_EQ(traces.passes(), static_cast<int64_t>(seen.size()));
    write_recording(folder.path() / "t.safetensors", traces.recording({}));

    const CommitTraceReader reader({folder.path() / "t.safetensors"});
    ASSERT_EQ(reader.answers(), 5);
    ASSERT_EQ(reader.passes(), static_cast<int64_t>(seen.size()));
    EXPECT_EQ(reader.hidden_size(), world.hidden);
    EXPECT_EQ(reader.labels(3).at("prompt"), "3");
    EXPECT_EQ(reader.labels(3).at("from"), "3");
    EXPECT_EQ(reader.labels(3).at("correct"), "1");
    std::stable_sort(seen.begin(), seen.end(), [](const Seen& a, const Seen& b) { return a.sequence < b.sequence; });
    TracedPass p;
    for (int64_t i = 0; i < reader.passes(); ++i) {
      reader.look(i, p);
      const std::string place = fmt::format("answer {}, pass {}", seen[i].sequence, seen[i].pass);
      ASSERT_EQ(p.answer, seen[i].sequence);
      ASSERT_EQ(p.state.pass, seen[i].pass);
      EXPECT_TRUE(shown(view, p.state) == seen[i].view) << place;
      EXPECT_EQ(p.tokens, seen[i].tokens) << place;
      EXPECT_EQ(p.picks, seen[i].picks) << place;
      EXPECT_EQ(p.state.ended, seen[i].ended) << place;
      EXPECT_EQ(p.forced, seen[i].forced) << place;
      ASSERT_EQ(p.state.beyond.size(), seen[i].beyond.size()) << place;
      for (size_t k = 0; k < seen[i].beyond.size(); ++k) EXPECT_EQ(p.state.beyond[k].token, seen[i].beyond[k]) << place;
      for (size_t k = 0; k < p.proposals.size(); ++k) EXPECT_EQ(p.final_tokens[k], answers[p.answer].canvas()[p.proposals[k].position]) << place;
    }
  }
}

TEST(commit_traces, a_share_of_the_passes_leaves_the_states_of_the_others_as_they_are) {
  const TemporaryFolder folder;
  const TracedWorld world;
  const auto opened = [&](double share) {
    write_recording(folder.path() / "t.safetensors", record_world(world, 12, test_seed(), {.share = share}));
    return std::make_unique<CommitTraceReader>(std::vector<std::string>{folder.path() / "t.safetensors"});
  };
  const auto all = opened(1), some = opened(0.3);
  EXPECT_LT(some->passes(), all->passes() * 6 / 10);
  const CommitView view({.items = 9});
  std::map<std::pair<std::string, int64_t>, Shown> known;
  TracedPass p;
  for (int64_t i = 0; i < all->passes(); ++i) all->look(i, p), known[{all->labels(p.answer).at("prompt"), p.state.pass}] = shown(view, p.state);
  for (int64_t i = 0; i < some->passes(); ++i) {
    some->look(i, p);
    EXPECT_TRUE(shown(view, p.state) == known.at({some->labels(p.answer).at("prompt"), p.state.pass}));
  }
}

TEST(commit_traces, an_answer_without_a_pass_to_learn_from_is_dropped) {
  const TracedWorld world;
  CommitTraces traces;
  FakeAnswer answer(world, 0, test_seed());
  traces.begin(0, {}, 1000);
  while (!answer.over()) {
    const CommitState& s = answer.propose();
    traces.see(s, answer.picks(), false), answer.commit();
  }
  EXPECT_FALSE(traces.end(0, answer.canvas()));
  EXPECT_THROW(traces.recording({}), DataError);
}

TEST(commit_traces, a_canvas_of_changing_length_and_missing_hidden_states_are_refused) {
  const std::vector<int32_t> four(4, -1), six(6, -1), pick = {0};
  const MaskedPosition m{.position = 1, .token = 3};
  const auto state = [&](const std::vector<int32_t>& tokens, int64_t pass) {
    CommitState s;
    s.length = static_cast<int64_t>(tokens.size()), s.pass = pass, s.window = {0, s.length}, s.tokens = tokens, s.masked = {&m, 1};
    return s;
  };
  CommitTraces traces;
  traces.begin(0, {});
  traces.see(state(four, 0), pick, false);
  EXPECT_THROW(traces.see(state(six, 1), pick, false), ConfigError);
  CommitTraces hidden({.hidden = true});
  hidden.begin(0, {});
  EXPECT_THROW(hidden.see(state(four, 0), pick, false), ConfigError);
}

TEST(stability, knows_nothing_of_endings_behind_the_ending) {
  const MaskedPosition word{.token = 5}, ending{.token = 2, .ends = true};
  EXPECT_EQ(stability(word, 5), 1);
  EXPECT_EQ(stability(word, 6), 0);
  EXPECT_EQ(stability(word, -1), 0);
  EXPECT_EQ(stability(ending, 2), 1);
  EXPECT_EQ(stability(ending, 5), 0);
  EXPECT_EQ(stability(ending, -1), -1);
}

// ---- hostile files ----

int64_t& number(Recording& r, const std::string& column, int64_t row) { return reinterpret_cast<int64_t*>(r.columns.at(column).values.bytes.data())[row]; }
float& real(Recording& r, const std::string& column, int64_t row) { return reinterpret_cast<float*>(r.columns.at(column).values.bytes.data())[row]; }
int64_t row_where(Recording& r, const std::function<bool(int64_t)>& test) {
  for (int64_t row = 0; row < r.rows(); ++row)
    if (test(row)) return row;
  ADD_FAILURE() << "no such row";
  return 0;
}
std::string refusal(const std::function<void(Recording&)>& spoil) {
  const TemporaryFolder folder;
  Recording r = record_world(blocks_world(), 3, test_seed(), {.hidden = true});
  for (auto& [name, column] : r.columns) column.low = -INFINITY, column.high = INFINITY;   // the file says that anything goes
  spoil(r);
  write_recording(folder.path() / "t.safetensors", r);
  try {
    const CommitTraceReader reader({folder.path() / "t.safetensors"});
  } catch (const DataError& error) {
    return error.what();
  }
  return "";
}
void expect_refusal(const std::string& what, const std::function<void(Recording&)>& spoil) {
  const std::string said = refusal(spoil);
  EXPECT_NE(said.find(what), std::string::npos) << what << " / " << said;
  EXPECT_NE(said.find("t.safetensors"), std::string::npos) << said;
  EXPECT_NE(said.find("record it again"), std::string::npos) << said;
}

TEST(commit_trace_reader, takes_what_is_in_order) {
  EXPECT_EQ(refusal([](Recording&) {}), "");
}

TEST(commit_trace_reader, refuses_what_no_generator_does) {
  const auto committed = [](Recording& r, bool yes) {
    return row_where(r, [&](int64_t i) { return number(r, "committed", i) == yes && number(r, "pass", i) == 1; });
  };
  expect_refusal("pass 0 should be", [](Recording& r) { number(r, "pass", 0) = 1; });
  expect_refusal("none is left out", [](Recording& r) {
    for (int64_t i = 0; i < r.rows(); ++i) number(r, "pass", i) += number(r, "pass", i) > 1;
  });
  expect_refusal("passes commit", [&](Recording& r) { number(r, "final", committed(r, true)) += 1; });
  expect_refusal("passes commit", [&](Recording& r) { number(r, "final", committed(r, false)) += 1; });
  expect_refusal("a second time", [&](Recording& r) {   // a position of pass 0 once more
    const int64_t first = row_where(r, [&](int64_t i) { return number(r, "committed", i) == 1; });
    const int64_t later = row_where(r, [&](int64_t i) { return number(r, "pass", i) == 1; });
    number(r, "position", later) = number(r, "position", first);
  });
  expect_refusal("outside of the answer's", [](Recording& r) {
    for (RecordedEpisode& e : r.episodes) e.labels["length"] = "9";
    for (int64_t i = 0; i < r.rows(); ++i) number(r, "window_end", i) = std::min<int64_t>(9, number(r, "window_end", i));
  });
  expect_refusal("not within the answer's", [](Recording& r) {
    for (RecordedEpisode& e : r.episodes) e.labels["length"] = "7";
  });
  expect_refusal("'length' is missing", [](Recording& r) { r.episodes[1].labels.erase("length"); });
  for (const char* length : {"", "0", "-4", "1e9", "24x", "99999999999999999999"})
    expect_refusal("'length' is no whole number", [&](Recording& r) { r.episodes[1].labels["length"] = length; });
  expect_refusal("differs from the pass's first row", [](Recording& r) { number(r, "window_pass", 1) += 1; });
  expect_refusal("out of order", [](Recording& r) { std::swap(number(r, "position", 0), number(r, "position", 1)); });
  expect_refusal("not within the window", [](Recording& r) {
    for (int64_t i = 0; number(r, "pass", i) == 0; ++i) number(r, "window_end", i) = 1;
  });
  expect_refusal("commits nothing", [](Recording& r) {
    for (int64_t i = 0; number(r, "pass", i) == 0; ++i) number(r, "committed", i) = 0;
  });
  expect_refusal("beyond the window", [](Recording& r) { number(r, "committed", row_where(r, [&](int64_t i) { return number(r, "beyond", i) == 1; })) = 1; });
  expect_refusal("did not commit", [](Recording& r) {
    for (int64_t i = 0; number(r, "pass", i) == 0; ++i) number(r, "whole", i) = 0;
  });
  expect_refusal("does not end", [](Recording& r) { number(r, "waits", row_where(r, [&](int64_t i) { return number(r, "ends", i) == 0; })) = 1; });
}

TEST(commit_trace_reader, refuses_numbers_out_of_range_whatever_the_file_says_of_its_columns) {
  expect_refusal("column 'position', row 0", [](Recording& r) { number(r, "position", 0) = -1; });
  expect_refusal("column 'token', row 2", [](Recording& r) { number(r, "token", 2) = int64_t{1} << 40; });
  expect_refusal("column 'committed', row 1", [](Recording& r) { number(r, "committed", 1) = 2; });
  expect_refusal("column 'confidence', row 1", [](Recording& r) { real(r, "confidence", 1) = 1.5f; });
  expect_refusal("column 'entropy', row 3", [](Recording& r) { real(r, "entropy", 3) = -0.5f; });
}

TEST(commit_trace_reader, refuses_files_that_do_not_fit) {
  const TemporaryFolder folder;
  const auto write = [&](const char* name, const Recording& r) { return write_recording(folder.path() / name, r), (folder.path() / name).string(); };
  Recording other = record_world({}, 1, test_seed());
  other.environment = "draft_length";
  EXPECT_THROW(CommitTraceReader({write("other", other)}), DataError);
  const std::string plain = write("plain", record_world({}, 1, test_seed())), hidden = write("hidden", record_world({.hidden = 4}, 1, test_seed(), {.hidden = true}));
  EXPECT_THROW(CommitTraceReader({plain, hidden}), DataError);
  EXPECT_THROW(CommitTraceReader({}), ConfigError);
  Recording less = record_world({}, 1, test_seed());
  less.columns.erase("held");
  EXPECT_THROW(CommitTraceReader({write("less", less)}), DataError);
}

}  // namespace
}  // namespace trimtab
