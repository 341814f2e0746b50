#include "domain/draft_schedule/schedule_formats.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/test_support.h"
#include "domain/draft_schedule/draft_schedule_test_util.h"

namespace trimtab {
namespace {

DraftSchedule rest_to(int64_t last_batch, int64_t most = 8) {
  return schedule_of({plain_entry(1, last_batch, 1)}, most);
}

std::string write_refusal(const std::string& format, const DraftSchedule& schedule) {
  return refusal_of([&] { write_draft_format(format, schedule); });
}
std::string read_refusal(const std::string& format, const std::string& text) {
  return refusal_of([&] { read_draft_format(format, text, "f", rest_to(256)); });
}
void says(const std::string& format, const std::string& text, const std::string& part) {
  const std::string message = read_refusal(format, text);
  EXPECT_TRUE(message.starts_with("f:") && message.find(part) != std::string::npos) << message << "\n"
                                                                                    << text;
}

AdaptiveDraft tiers(std::vector<AdaptiveDraft::Tier> list) {
  AdaptiveDraft out;
  out.tiers = std::move(list);
  return out;
}

TEST(DraftFormats, WhatTheyCanSaySurvivesThereAndBack) {
  for (const DraftScheduleFormat& format : draft_schedule_formats()) {
    int written = 0, refused = 0;
    for (uint32_t round = 0; round < 1500; ++round) {
      SCOPED_TRACE(fmt::format("{} TRIMTAB_TEST_SEED={} round {}", format.name, test_seed(), round));
      Draws draws(test_seed(), Stream::kTest, round);
      const DraftSchedule schedule = random_schedule(draws, format.name == "sglang" && round % 4 != 0);
      std::string text;
      try {
        text = write_draft_format(format.name, schedule);
      } catch (const DataError& error) {
        ++refused;
        const std::string message = error.what();
        EXPECT_TRUE(message.starts_with(format.name + " cannot represent the draft schedule: ") &&
                    message.find("; ") != std::string::npos)
            << message;
        continue;
      }
      ++written;
      EXPECT_EQ(read_draft_format(format.name, text, "f", schedule), schedule)
          << text;  // measured facts: same entries
      DraftSchedule rest = schedule;
      rest.entries = {plain_entry(1, schedule.entries.back().last_batch, 0)};
      DraftSchedule expected = schedule;
      for (DraftEntry& entry : expected.entries) entry.tokens_per_s = std::nullopt;
      const DraftSchedule back = read_draft_format(format.name, text, "f", rest);
      EXPECT_EQ(back, expected) << text;
      EXPECT_EQ(write_draft_format(format.name, back), text);
    }
    EXPECT_GT(written, 100) << format.name;
    EXPECT_GT(refused, 100) << format.name;
  }
}

TEST(DraftFormats, TheTableIsWhole) {
  for (const DraftScheduleFormat& format : draft_schedule_formats()) {
    EXPECT_FALSE(format.doc.empty());
    EXPECT_NE(format.use.find("FILE"), std::string::npos);
    EXPECT_EQ(&draft_schedule_format(format.name), &format);
  }
  try {
    draft_schedule_format("vlm");
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(), "unknown draft schedule format 'vlm'; did you mean 'vllm'?");
  }
}

TEST(DraftFormats, AFaultyScheduleOrRestIsRefused) {
  EXPECT_EQ(
      write_refusal("vllm", schedule_of({plain_entry(1, 4, 9)}, 8)),
      "the draft schedule: /entries/0/k: expected a draft length from 0 to 8, which /most declares, found 9");
  EXPECT_EQ(refusal_of([] { read_draft_format("vllm", "{}", "f", schedule_of({}, 8)); }),
            "the draft schedule that supplies the rest: /entries: 0 entries; expected 1 to 1024");
  for (const DraftScheduleFormat& format : draft_schedule_formats()) {
    says(format.name, std::string(DraftSchedule::kMaxBytes + 1, ' '), "1048577 bytes");
    says(format.name, "", "");
    says(format.name, "[]", "");
    says(format.name, std::string(100'000, '['), "");
  }
}

TEST(DraftFormats, SurviveTruncationAndFlippedBits) {
  DraftSchedule schedule =
      schedule_of({plain_entry(1, 4, 4), plain_entry(5, 8, 2), plain_entry(9, 32, 0)}, 4);
  for (const DraftScheduleFormat& format : draft_schedule_formats()) {
    if (format.name == "sglang") {
      schedule.entries[1].adaptive = tiers({{0, 0}, {0.5, 2}, {1.5, 4}});
      schedule.entries[1].k = 2;
    }
    const std::string whole = write_draft_format(format.name, schedule);
    const auto survives = [&](const std::string& text) {
      const std::string message = refusal_of([&] {
        const DraftSchedule read = read_draft_format(format.name, text, "f", schedule);
        EXPECT_NO_THROW(check_draft_schedule(read, "f"));
      });
      EXPECT_TRUE(message == "no error" || message.starts_with("f:")) << message;
      return message == "no error";
    };
    EXPECT_TRUE(survives(whole)) << whole;
    for (size_t length = 0; length < whole.size(); ++length) {
      const bool read = survives(whole.substr(0, length));
      if (format.name != "tensorrt_llm") {  // YAML has no end mark
        EXPECT_EQ(read, length + 1 == whole.size()) << length;
      }
    }
    for (size_t i = 0; i < whole.size() * 8; ++i) {
      std::string damaged = whole;
      damaged[i / 8] = static_cast<char>(damaged[i / 8] ^ (1 << (i % 8)));
      survives(damaged);
    }
  }
}

TEST(Vllm, WritesTheJsonOfItsOption) {
  EXPECT_EQ(
      write_draft_format(
          "vllm", schedule_of({plain_entry(1, 64, 3), plain_entry(65, 128, 1), plain_entry(129, 512, 0)}, 3)),
      "{\"method\":\"draft_model\",\"model\":\"draft-model\",\"num_speculative_tokens\":3,"
      "\"num_speculative_tokens_per_batch_size\":[[1,64,3],[65,128,1],[129,512,0]]}\n");
  DraftSchedule schedule = schedule_of({plain_entry(1, 4, 3), plain_entry(5, 5, 1)}, 3);
  schedule.entries[1].adaptive = tiers({{0, 1}, {0.5, 2}});
  EXPECT_EQ(write_refusal("vllm", schedule),
            "vllm cannot represent the draft schedule: tiers by accepted length at batch size 5; leave "
            "'adaptive' out, or write the format 'sglang'");
  schedule = rest_to(4);
  schedule.models.draft_source.clear();
  EXPECT_EQ(write_refusal("vllm", schedule),
            "vllm cannot represent the draft schedule: it names the draft model, and /models/draft_source is "
            "not there; state what the draft model is loaded from");
}

std::string vllm(const std::string& table, const std::string& more = "") {
  return fmt::format(
      "{{\"method\": \"draft_model\", \"model\": \"d\", \"num_speculative_tokens\": 3, "
      "\"num_speculative_tokens_per_batch_size\": {}{}}}",
      table, more);
}

TEST(Vllm, RefusesWithPlace) {
  EXPECT_EQ(read_refusal("vllm", vllm("[[1, 4, 3], [5, 8, 0]]")), "no error");
  const std::string place = "f: /num_speculative_tokens_per_batch_size";
  says("vllm", vllm("[]"), place + ": 0 entries; expected 1 to 1024");
  says("vllm", vllm("{\"1-4\": 3}"), place + ": expected a list [...], found an object");
  says("vllm", vllm("[[1, 4]]"),
       place + "/0: expected [first batch size, last batch size, k], found a list of 2");
  says("vllm", vllm("[[1, 4, 1, 100, 3]]"),
       place + "/0: expected [first batch size, last batch size, k], found a list of 5");
  says("vllm", vllm("[[2, 4, 3]]"), place + "/0: begins at batch size 2; the first entry begins at 1");
  says("vllm", vllm("[[1, 4, 3], [4, 8, 2]]"),
       place + "/1: begins at batch size 4, which the entries before it have; expected 5");
  says("vllm", vllm("[[1, 4, 3], [8, 9, 2]]"),
       place + "/1: a hole before batch size 8: vLLM keeps K=3 there; write it out from 5 on");
  says("vllm", vllm("[[1, 0, 3]]"), place + "/0/1: expected a whole number from 1 to 1048576, found 0");
  says("vllm", vllm("[[1, 4, 4]]"), place + "/0/2: expected a whole number from 0 to 3, found 4");
  says("vllm", vllm("[[1, 4, \"3\"]]"), place + "/0/2: expected a whole number, found \"3\"");
  says("vllm", vllm("[[1, 4, 3]]", ", \"models\": 1"),
       "f: the document: unknown key 'models'; did you mean 'model'?");
  says("vllm", vllm("[[1, 4, 3]]", ", \"model\": \"e\""), "the key 'model' is there twice");
  says("vllm", "{\"method\": \"eagle\"}", "f: /method: 'eagle' is not a draft model; expected 'draft_model'");
  says("vllm", "{\"method\": \"draft_model\", \"model\": \"\"}", "f: /model: is empty");
}

TEST(TensorRtLlm, WritesItsYaml) {
  EXPECT_EQ(
      write_draft_format("tensorrt_llm",
                         schedule_of({plain_entry(1, 4, 4), plain_entry(5, 8, 2), plain_entry(9, 32, 1)}, 4)),
      "speculative_config:\n  decoding_type: DraftTarget\n  max_draft_len: 4\n  speculative_model: "
      "\"draft-model\"\n  draft_len_schedule:\n"
      "    4: 4\n    8: 2\n    32: 1\n");
  EXPECT_EQ(write_refusal("tensorrt_llm", schedule_of({plain_entry(1, 4, 2), plain_entry(5, 8, 4)}, 4)),
            "tensorrt_llm cannot represent the draft schedule: k = 2 at batch sizes 1 to 4, while the "
            "longest draft is 4; it takes the longest draft for the "
            "smallest batch sizes: make these equal");
}

std::string tensorrt(const std::string& table, const std::string& more = "") {
  return fmt::format(
      "kv_cache_config: {{dtype: fp8}}\nspeculative_config:\n  decoding_type: DraftTarget\n  max_draft_len: "
      "4\n{}  draft_len_schedule: {}\n",
      more.empty() ? "  speculative_model: d\n" : more, table);
}

TEST(TensorRtLlm, RefusesWithPlace) {
  const DraftSchedule read = read_draft_format(
      "tensorrt_llm", tensorrt("{4: 4, 8: 0}", "  speculative_model_dir: a/b\n"), "f", rest_to(8));
  EXPECT_EQ(read.entries, (std::vector<DraftEntry>{plain_entry(1, 4, 4), plain_entry(5, 8, 0)}));
  EXPECT_EQ(read.models.draft_source, "a/b");
  EXPECT_EQ(read.most, 4);
  const auto refused = [](const std::string& text, const std::string& part) {
    says("tensorrt_llm", text, part);
  };
  refused(tensorrt("{8: 4, 4: 2}"), "batch sizes must rise: 4 after 8");
  refused(tensorrt("{4: 2, 8: 1}"), "must be max_draft_len, 4, got 2");
  refused(tensorrt("{4: 4, 8: 5}"), "expected a whole number from 0 to 4, got '5'");
  refused(tensorrt("{4: 4, 8: -1}"), "expected a whole number from 0 to 4, got '-1'");
  refused(tensorrt("{4: 4, 08: 1}"), "expected a whole number from 1 to 1048576, got '08'");
  refused(tensorrt("{0: 4}"), "expected a whole number from 1 to 1048576, got '0'");
  refused(tensorrt("{4: 4, 4: 2}"), "4");  // a second key of the same name
  refused(tensorrt("{4: [4]}"), "expected text, got a list");
  refused(tensorrt("{}"), "0 entries; expected 1 to 1024");
  refused(tensorrt("[4, 2]"), "expected a map");
  refused(tensorrt("{4: 4}", "  speculative_model: d\n  max_draft_length: 4\n"),
          "unknown key 'max_draft_length'; did you mean 'max_draft_len'?");
  refused(tensorrt("{4: 4}", "  speculative_model: d\n  speculative_model_dir: e\n"),
          "is another name of speculative_model; remove one");
  refused(tensorrt("{4: 4}", "  speculative_model: ''\n"), "is empty");
  refused("speculative_config: {decoding_type: Eagle3}\n", "expected DraftTarget, got 'Eagle3'");
  refused("speculative_config: {decoding_type: DraftTarget, speculative_model: d, max_draft_len: 129}\n",
          "expected a whole number from 1 to 128, got '129'");
  refused("kv_cache_config: {dtype: fp8}\n", "key 'speculative_config': is missing");
  refused("a: &x 1\nb: *x\n", "f:1");
}

TEST(Sglang, WritesItsJson) {
  DraftSchedule schedule = schedule_of({plain_entry(1, 16, 3), plain_entry(17, 64, 1)}, 7);
  schedule.entries[0].adaptive = tiers({{0, 1}, {0.5, 3}, {2.5, 7}});
  EXPECT_EQ(
      nlohmann::json::parse(write_draft_format("sglang", schedule)),
      nlohmann::json::parse(
          R"({"1": {"candidate_steps": [1, 3, 7], "ema_alpha": 0.2, "update_interval": 5, "warmup_batches": 10,
                                            "up_hysteresis": 0.0, "down_hysteresis": -0.25}, "17": {"candidate_steps": [1]}})"));
  schedule.entries[0].k = 7;
  EXPECT_EQ(write_refusal("sglang", schedule),
            "sglang cannot represent the draft schedule: a start with k = 7 at batch sizes 1 to 16; SGLang "
            "starts with the middle one of the candidates: set k to 3");
  schedule.entries[0].k = 3;
  schedule.entries[0].adaptive->tiers[2].at_least = 2.0;
  EXPECT_EQ(write_refusal("sglang", schedule),
            "sglang cannot represent the draft schedule: from k = 3 to 7 at 2 accepted tokens, at batch "
            "sizes 1 to 16; SGLang steps at 2.5: choose that, and "
            "move it by the margins");
}

// The table that SGLang has when no file is given.
TEST(Sglang, ReadsItsOwnDefaults) {
  const DraftSchedule read = read_draft_format(
      "sglang",
      R"({"1": {"candidate_steps": [1, 3, 5, 7], "up_hysteresis": 0.0, "down_hysteresis": -0.25, "ceiling_coeff": 0},
      "8": {"candidate_steps": [0, 1, 3], "up_hysteresis": 0.0, "down_hysteresis": 0.0, "ceiling_coeff": 0},
      "32": {"candidate_steps": [0, 1], "down_hysteresis": 0.0}, "64": {"candidate_steps": [0]}, "strategy": "ema", "ema_alpha": 0.5})",
      "f", rest_to(256));
  ASSERT_EQ(read.entries.size(), 4u);
  EXPECT_EQ(read.entries[0].adaptive->tiers,
            (std::vector<AdaptiveDraft::Tier>{{0, 1}, {0.5, 3}, {2.5, 5}, {4.5, 7}}));
  EXPECT_EQ(read.entries[1].adaptive->tiers, (std::vector<AdaptiveDraft::Tier>{{0, 0}, {0.5, 1}, {0.5, 3}}));
  EXPECT_EQ(read.entries[0].adaptive->ema, 0.5);
  EXPECT_EQ(read.entries[1].adaptive->drop_margin, 0);
  EXPECT_EQ(read.entries[3], plain_entry(64, 256, 0));
  // All candidates are 0, 1, 3, 5, 7: a server starts with 3 where a slot has it, else with the slot's middle
  // one.
  EXPECT_EQ(read.entries[0].k, 3);
  EXPECT_EQ(read.entries[1].k, 3);
  EXPECT_EQ(read.entries[2].k, 1);
}

TEST(Sglang, RefusesWithPlace) {
  const auto refused = [](const std::string& text, const std::string& part) { says("sglang", text, part); };
  refused("{}", "no batch size");
  refused(R"({"candidate_steps": [1, 3, 7]})",
          "is the form before sglang#24055; put the whole under the key \"1\"");
  refused(R"({"2": {"candidate_steps": [1]}})", "f: the document: the first batch size is 2; expected 1");
  refused(R"({"01": {"candidate_steps": [1]}})",
          "the key '01' is neither a batch size from 1 to 1048576 nor a setting");
  refused(R"({"1": {"candidate_steps": []}})", "f: /1/candidate_steps: 0 candidates; expected 1 to 16");
  refused(R"({"1": {"candidate_steps": [3, 1]}})",
          "f: /1/candidate_steps/1: expected rising steps from 0 to 8");
  refused(R"({"1": {"candidate_steps": [-1]}})",
          "f: /1/candidate_steps/0: expected rising steps from 0 to 8");
  refused(R"({"1": {"candidate_steps": [9]}})", "f: /1/candidate_steps/0: expected rising steps from 0 to 8");
  refused(R"({"1": {"candidate_steps": [1.5]}})", "f: /1/candidate_steps/0: expected a whole number");
  refused(R"({"1": [1]})", "f: /1: expected an object");
  refused(R"({"1": {"ema_alpha": 0.2}})", "f: /1: the key 'candidate_steps' is missing");
  refused(R"({"1": {"candidate_step": [1]}})", "did you mean 'candidate_steps'?");
  refused(R"({"1": {"candidate_steps": [1, 3], "ema_alpha": 0}})",
          "f: /1/ema_alpha: expected a number above 0 and up to 1");
  refused(R"({"1": {"candidate_steps": [1, 3]}, "update_interval": 0})",
          "f: /update_interval: expected a whole number from 1");
  refused(R"({"1": {"candidate_steps": [1, 3], "ceiling_coeff": 2}})",
          "f: /1/ceiling_coeff: 2: a ceiling on top of the tiers");
  refused(R"({"1": {"candidate_steps": [1, 3], "up_hysteresis": 1e3}})",
          "f: /1/up_hysteresis: expected a number from -128 to 128");
  refused(R"({"1": {"candidate_steps": [1]}, "strategy": "throughput_aware"})",
          "f: /strategy: expected 'ema'");
  refused(R"({"1": {"candidate_steps": [1]}, "257": {"candidate_steps": [0]}})",
          "f: /257: the schedule that supplies the rest ends at batch size 256");
  refused(R"({"1": {"candidate_steps": [1]}, "1": {"candidate_steps": [0]}})", "the key '1' is there twice");
}

}  // namespace
}  // namespace trimtab
