#include "domain/draft_schedule/draft_schedule.h"

#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/test_support.h"
#include "domain/draft_schedule/draft_schedule_test_util.h"

namespace trimtab {
namespace {

using nlohmann::json;

DraftSchedule sample() {
  DraftSchedule s = schedule_of({plain_entry(1, 16, 4), plain_entry(17, 64, 3), plain_entry(65, 256, 0)}, 7);
  s.name = "sample";
  s.entries[0].tokens_per_s = 512.5;
  s.entries[1].adaptive = AdaptiveDraft{.tiers = {{0, 1}, {0.5, 3}}};
  return s;
}

std::string refusal(const std::string& text) {
  return refusal_of([&] { parse_draft_schedule(text, "s.json"); });
}
std::string refusal_after(const std::function<void(json&)>& change) {
  json document = json::parse(draft_schedule_json(sample()));
  change(document);
  return refusal(document.dump());
}

TEST(DraftSchedule, WhatIsWrittenReadsBackEqual) {
  for (uint32_t round = 0; round < 500; ++round) {
    SCOPED_TRACE(fmt::format("TRIMTAB_TEST_SEED={} round {}", test_seed(), round));
    Draws draws(test_seed(), Stream::kTest, round);
    const DraftSchedule schedule = random_schedule(draws);
    EXPECT_EQ(parse_draft_schedule(draft_schedule_json(schedule), "s.json"), schedule);
  }
}

TEST(DraftSchedule, FilesReadBackAndAMissingFolderIsSaid) {
  const TemporaryFolder folder;
  const auto file = folder.path() / "schedule.json";
  write_draft_schedule(sample(), file);
  EXPECT_EQ(read_draft_schedule(file), sample());
  EXPECT_THROW(write_draft_schedule(sample(), folder.path() / "absent" / "schedule.json"), CheckpointError);
}

TEST(DraftSchedule, TheFormIsStable) {
  EXPECT_EQ(draft_schedule_json(sample()),
            "{\n  \"draft_schedule_version\": 1,\n  \"name\": \"sample\",\n"
            "  \"models\": "
            "{\"draft\":\"0123456789abcdef\",\"target\":\"fedcba9876543210\",\"vocabulary\":49152,\"draft_"
            "source\":\"draft-model\"},\n"
            "  \"most\": 7,\n  \"entries\": [\n"
            "    {\"batch\":[1,16],\"k\":4,\"tokens_per_s\":512.5},\n"
            "    "
            "{\"batch\":[17,64],\"k\":3,\"adaptive\":{\"ema\":0.2,\"warm_up\":10,\"interval\":5,\"rise_"
            "margin\":0.0,\"drop_margin\":0.25,"
            "\"tiers\":[[0.0,1],[0.5,3]]}},\n"
            "    {\"batch\":[65,256],\"k\":0}\n  ]\n}\n");
}

TEST(DraftSchedule, FindsTheEntryOfABatchSize) {
  for (const auto& [batch, k] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 4}, {16, 4}, {17, 3}, {64, 3}, {65, 0}, {256, 0}, {10000, 0}})
    EXPECT_EQ(sample().at(batch).k, k) << batch;
}

struct Refused {
  const char* name;
  void (*change)(json&);
  const char* message;
};
const Refused kRefused[] = {
    {"unknown", [](json& d) { d["mosts"] = 1; },
     "s.json: the document: unknown key 'mosts'; did you mean 'most'?"},
    {"unknown, none near", [](json& d) { d["entries"][0]["speed"] = 1; },
     "s.json: /entries/0: unknown key 'speed'; expected one of batch, k, tokens_per_s, adaptive"},
    {"unknown, deeper", [](json& d) { d["entries"][1]["adaptive"]["warmup"] = 1; },
     "s.json: /entries/1/adaptive: unknown key 'warmup'; did you mean 'warm_up'?"},
    {"missing", [](json& d) { d.erase("most"); }, "s.json: the document: the key 'most' is missing"},
    {"missing, deeper", [](json& d) { d["entries"][2].erase("k"); },
     "s.json: /entries/2: the key 'k' is missing"},
    {"version",
     [](json& d) {
       d["draft_schedule_version"] = 2;
       d["new"] = 1;
     },
     "s.json: /draft_schedule_version: version 2; this program reads 1"},
    {"type", [](json& d) { d["most"] = "7"; }, "s.json: /most: expected a whole number, found \"7\""},
    {"float", [](json& d) { d["entries"][0]["k"] = 4.0; },
     "s.json: /entries/0/k: expected a whole number, found 4.0"},
    {"null", [](json& d) { d["entries"][0]["tokens_per_s"] = nullptr; },
     "s.json: /entries/0/tokens_per_s: expected a number, found null"},
    {"object", [](json& d) { d["entries"] = json::object(); },
     "s.json: /entries: expected a list [...], found an object"},
    {"entry", [](json& d) { d["entries"][1] = 3; }, "s.json: /entries/1: expected an object {...}, found 3"},
    {"no entry", [](json& d) { d["entries"] = json::array(); },
     "s.json: /entries: 0 entries; expected 1 to 1024"},
    {"most", [](json& d) { d["most"] = 129; },
     "s.json: /most: expected a whole number from 1 to 128, found 129"},
    {"most of none", [](json& d) { d["most"] = 0; },
     "s.json: /most: expected a whole number from 1 to 128, found 0"},
    {"huge", [](json& d) { d["most"] = UINT64_MAX; },
     "s.json: /most: expected a whole number, found 18446744073709551615"},
    {"hash", [](json& d) { d["models"]["target"] = "ABC"; },
     "s.json: /models/target: expected 8 to 128 lower-case hex digits, found 'ABC'"},
    {"vocabulary", [](json& d) { d["models"]["vocabulary"] = 0; },
     "s.json: /models/vocabulary: expected a whole number from 1 to 2147483648, found 0"},
    {"line", [](json& d) { d["name"] = "a\nb"; },
     "s.json: /name: expected one line of UTF-8, at most 1000 bytes"},
    {"pair", [](json& d) { d["entries"][0]["batch"] = {1}; },
     "s.json: /entries/0/batch: expected [first batch size, last batch size], found a list of 1"},
    {"start",
     [](json& d) {
       d["entries"][0]["batch"] = {2, 16};
     },
     "s.json: /entries/0/batch/0: a hole at batch size 1: expected 1, found 2"},
    {"hole",
     [](json& d) {
       d["entries"][1]["batch"] = {20, 64};
     },
     "s.json: /entries/1/batch/0: a hole at batch size 17: expected 17, found 20"},
    {"overlap",
     [](json& d) {
       d["entries"][1]["batch"] = {16, 64};
     },
     "s.json: /entries/1/batch/0: an overlap at batch size 16: expected 17, found 16"},
    {"backwards",
     [](json& d) {
       d["entries"][2]["batch"] = {65, 64};
     },
     "s.json: /entries/2/batch/1: expected a whole number from 65 to 1048576, found 64"},
    {"far",
     [](json& d) {
       d["entries"][2]["batch"] = {65, INT64_MAX};
     },
     "s.json: /entries/2/batch/1: expected a whole number from 65 to 1048576, found 9223372036854775807"},
    {"too long", [](json& d) { d["entries"][0]["k"] = 8; },
     "s.json: /entries/0/k: expected a draft length from 0 to 7, which /most declares, found 8"},
    {"negative", [](json& d) { d["entries"][0]["k"] = -1; },
     "s.json: /entries/0/k: expected a draft length from 0 to 7, which /most declares, found -1"},
    {"rate", [](json& d) { d["entries"][0]["tokens_per_s"] = -0.5; },
     "s.json: /entries/0/tokens_per_s: expected a number from 0 to 1000000000000, found -0.5"},
    {"ema", [](json& d) { d["entries"][1]["adaptive"]["ema"] = 0; },
     "s.json: /entries/1/adaptive/ema: expected a number above 0 and up to 1, found 0"},
    {"interval", [](json& d) { d["entries"][1]["adaptive"]["interval"] = 0; },
     "s.json: /entries/1/adaptive/interval: expected a whole number from 1 to 1073741824, found 0"},
    {"margin", [](json& d) { d["entries"][1]["adaptive"]["drop_margin"] = 1e9; },
     "s.json: /entries/1/adaptive/drop_margin: expected a number from -128 to 128, found 1000000000"},
    {"one tier",
     [](json& d) {
       d["entries"][1]["adaptive"]["tiers"] = {{0, 3}};
       d["entries"][1]["adaptive"]["tiers"].get_ref<json::array_t&>().resize(1);
     },
     "s.json: /entries/1/adaptive/tiers: 1 tiers; expected 2 to 16 (one draft length needs no tiers: leave "
     "'adaptive' out)"},
    {"tier of three",
     [](json& d) {
       d["entries"][1]["adaptive"]["tiers"][0] = {0, 1, 2};
     },
     "s.json: /entries/1/adaptive/tiers/0: expected [accepted tokens at least, draft length], found a list "
     "of 3"},
    {"lowest tier", [](json& d) { d["entries"][1]["adaptive"]["tiers"][0][0] = 0.1; },
     "s.json: /entries/1/adaptive/tiers/0/0: the lowest tier begins at 0, found 0.1"},
    {"falling lengths", [](json& d) { d["entries"][1]["adaptive"]["tiers"][1][1] = 1; },
     "s.json: /entries/1/adaptive/tiers/1/1: draft lengths must rise from tier to tier: expected more than "
     "1, found 1"},
    {"falling tiers", [](json& d) { d["entries"][1]["adaptive"]["tiers"][1][0] = -1; },
     "s.json: /entries/1/adaptive/tiers/1/0: tiers must not fall: expected at least 0, found -1"},
    {"out of reach", [](json& d) { d["entries"][1]["adaptive"]["tiers"][1][0] = 1.5; },
     "s.json: /entries/1/adaptive/tiers/1/0: cannot be reached: the tier below accepts at most 1 tokens per "
     "round, found 1.5"},
    {"tier too long", [](json& d) { d["entries"][1]["adaptive"]["tiers"][1][1] = 9; },
     "s.json: /entries/1/adaptive/tiers/1/1: expected a draft length from 0 to 7, which /most declares, "
     "found 9"},
    {"start in no tier", [](json& d) { d["entries"][1]["k"] = 2; },
     "s.json: /entries/1/k: 2 is the draft length of no tier; start at one of them"},
};

TEST(DraftSchedule, RefusesWithFilePlaceAndCure) {
  for (const Refused& refused : kRefused) {
    SCOPED_TRACE(refused.name);
    EXPECT_EQ(refusal_after(refused.change), refused.message);
  }
}

TEST(DraftSchedule, RefusesWhatIsNotJson) {
  EXPECT_EQ(refusal("{\n  \"a\": tru\n}").substr(0, 20), "s.json:2:11: not JSO");
  EXPECT_EQ(refusal("").substr(0, 20), "s.json:1:1: not JSON");
  EXPECT_NE(refusal("{\"most\": NaN}").find("not JSON"), std::string::npos);
  EXPECT_NE(refusal("{\"most\": 1e999}").find("number overflow"), std::string::npos);
  EXPECT_NE(refusal("{\"most\": " + std::string(300'000, '9') + "}").find("number overflow"),
            std::string::npos);
  EXPECT_NE(refusal("{\"name\": \"\xff\"}").find("not JSON"), std::string::npos);
  EXPECT_NE(refusal(draft_schedule_json(sample()) + '\0' + "x").find("a zero byte"), std::string::npos);
  EXPECT_NE(refusal(draft_schedule_json(sample()) + "{}").find("not JSON"), std::string::npos);
  EXPECT_EQ(refusal("{\"entries\": [{\"k\": 1, \"k\": 2}]}"),
            "s.json: /entries/0: the key 'k' is there twice; remove one");
  EXPECT_NE(refusal(std::string(1'000'000, '[')).find("more than 16 levels"), std::string::npos);
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "{\"a\":";
  EXPECT_NE(refusal(deep).find("more than 16 levels"), std::string::npos);
  EXPECT_EQ(refusal("[]"), "s.json: the document: expected an object {...}, found a list");
  EXPECT_NE(refusal(std::string(DraftSchedule::kMaxBytes + 1, ' '))
                .find("1048577 bytes; a draft schedule has at most 1048576"),
            std::string::npos);
}

TEST(DraftSchedule, RefusesFilesThatAreNone) {
  const TemporaryFolder folder;
  const auto read = [](const std::filesystem::path& file) {
    return refusal_of([&] { read_draft_schedule(file); });
  };
  EXPECT_NE(read(folder.path() / "absent.json").find("absent.json: cannot be read"), std::string::npos);
  EXPECT_NE(read(folder.path()).find("cannot be read"), std::string::npos);
  EXPECT_NE(read("/dev/zero").find("cannot be read"), std::string::npos);
  const auto huge = folder.path() / "huge.json";
  std::ofstream(huge) << "{";
  std::filesystem::resize_file(huge, uint64_t{1} << 40);  // sparse: takes no room
  EXPECT_NE(read(huge).find("a draft schedule has at most 1048576"), std::string::npos);
}

TEST(DraftSchedule, AFaultyScheduleIsNotWritten) {
  const auto refusal = [](const std::function<void(DraftSchedule&)>& change) {
    DraftSchedule schedule = sample();
    change(schedule);
    return refusal_of([&] { draft_schedule_json(schedule); });
  };
  EXPECT_EQ(refusal([](DraftSchedule& s) { s.entries.clear(); }),
            "the draft schedule: /entries: 0 entries; expected 1 to 1024");
  EXPECT_EQ(
      refusal([](DraftSchedule& s) { s.entries[0].tokens_per_s = std::numeric_limits<double>::quiet_NaN(); }),
      "the draft schedule: /entries/0/tokens_per_s: expected a number from 0 to 1000000000000, found nan");
  EXPECT_EQ(refusal([](DraftSchedule& s) {
              s.entries[1].adaptive->tiers[1].at_least = std::numeric_limits<double>::quiet_NaN();
            }),
            "the draft schedule: /entries/1/adaptive/tiers/1/0: tiers must not fall: expected at least 0, "
            "found nan");
  EXPECT_EQ(refusal([](DraftSchedule& s) { s.entries[0].last_batch = INT64_MAX; }),
            "the draft schedule: /entries/0/batch/1: expected a whole number from 1 to 1048576, found "
            "9223372036854775807");
  EXPECT_EQ(refusal([](DraftSchedule& s) { s.models.draft_source = "\xff"; }),
            "the draft schedule: /models/draft_source: expected one line of UTF-8, at most 1000 bytes");
}

// The largest schedule that can be written can be read.
TEST(DraftSchedule, TheLargestFits) {
  DraftSchedule s = schedule_of({}, DraftSchedule::kMost);
  s.name = s.created_by = s.models.draft_source = std::string(1000, '"');
  AdaptiveDraft adaptive{.tiers = {},
                         .ema = 0.12345678901234567,
                         .warm_up = 1 << 30,
                         .interval = 1 << 30,
                         .rise_margin = -1.2345678901234567e-100,
                         .drop_margin = -1.2345678901234567e-100};
  for (int64_t i = 0; i < DraftSchedule::kMostTiers; ++i)
    adaptive.tiers.push_back({i == 0 ? 0 : 0.12345678901234567, 112 + i});
  for (int64_t i = 0; i < DraftSchedule::kMostEntries; ++i) {
    DraftEntry e = plain_entry(DraftSchedule::kMostBatch - DraftSchedule::kMostEntries + i,
                               DraftSchedule::kMostBatch - DraftSchedule::kMostEntries + i, 112);
    if (i == 0) e.first_batch = 1;
    if (i + 1 == DraftSchedule::kMostEntries) e.last_batch = DraftSchedule::kMostBatch;
    e.tokens_per_s = 1.2345678901234567e-100;
    e.adaptive = adaptive;
    s.entries.push_back(e);
  }
  EXPECT_EQ(parse_draft_schedule(draft_schedule_json(s), "s.json"), s);
  s.entries.push_back(s.entries.back());
  EXPECT_THROW(draft_schedule_json(s), DataError);
}

TEST(DraftSchedule, FitsItsModelsAlone) {
  const DraftSchedule s = sample();
  EXPECT_NO_THROW(check_schedule_fits(s, s.models.draft_hash, s.models.target_hash, 49152));
  EXPECT_EQ(refusal_of([&] { check_schedule_fits(s, "ffffffffffffffff", "", 50000); }),
            "the draft schedule 'sample' is for other models: it was made for draft 0123456789abcdef, target "
            "fedcba9876543210, 49152 tokens; these are draft "
            "ffffffffffffffff, target unknown, 50000 tokens. Measure a schedule for these models, or load "
            "the others");
  EXPECT_THROW(check_schedule_fits(s, s.models.draft_hash, s.models.draft_hash, 49152), DataError);
  EXPECT_THROW(check_schedule_fits(s, s.models.draft_hash, s.models.target_hash, 49151), DataError);
}

// Read or refused by name, never worse; what is read can be written and read again.
bool survives(const std::string& text) {
  try {
    const DraftSchedule schedule = parse_draft_schedule(text, "s.json");
    EXPECT_EQ(parse_draft_schedule(draft_schedule_json(schedule), "s.json"), schedule) << text;
    return true;
  } catch (const DataError& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("s.json:")) << error.what();
    return false;
  }
}

TEST(DraftSchedule, SurvivesTruncationAtEveryByte) {
  const std::string whole = draft_schedule_json(sample());
  for (size_t length = 0; length + 2 < whole.size(); ++length)
    EXPECT_FALSE(survives(whole.substr(0, length))) << length;
  EXPECT_EQ(parse_draft_schedule(whole.substr(0, whole.size() - 1), "s.json"),
            sample());  // without the last line end
}

TEST(DraftSchedule, SurvivesEveryFlippedBit) {
  const std::string whole = draft_schedule_json(sample());
  for (size_t i = 0; i < whole.size() * 8; ++i) {
    std::string damaged = whole;
    damaged[i / 8] = static_cast<char>(damaged[i / 8] ^ (1 << (i % 8)));
    survives(damaged);
  }
}

TEST(DraftSchedule, SurvivesAnyValueInAnyPlace) {
  const json whole = json::parse(draft_schedule_json(sample()));
  const json flat = whole.flatten();
  const std::vector<json> values = {nullptr,       true,           -1,        0,         3.5,
                                    1e300,         UINT64_MAX,     INT64_MIN, "",        "x",
                                    json::array(), json::object(), {1, 2},    {{"a", 1}}};
  for (const auto& [place, unused] : flat.items()) {
    for (size_t up = 0; up < 4; ++up) {
      json::json_pointer pointer(place);
      for (size_t i = 0; i < up && !pointer.empty(); ++i) pointer.pop_back();
      for (const json& value : values) {
        json damaged = whole;
        damaged[pointer] = value;
        survives(damaged.dump());
      }
    }
  }
}

}  // namespace
}  // namespace trimtab
