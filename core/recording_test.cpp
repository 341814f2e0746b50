#include "core/recording.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>

#include "core/error.h"
#include "core/files.h"
#include "core/random.h"
#include "core/test_support.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Two episodes of three and two rows.
Recording example() {
  Recording out;
  out.environment = "draft_length";
  out.facts = {{"producer", "a test"}, {"target_model", "0123abcd"}};
  out.episodes = {{0, 3, {{"category", "code"}}}, {3, 2, {}}};
  out.columns["accepted"] = {"tokens", "drafted tokens that were kept", 0, 8, Tensor::f32({5}, std::vector<float>{0, 3, 8, 1, 2})};
  out.columns["chance"] = {"", "of each draft", 0, 1, Tensor::f32({5, 2}, std::vector<float>{0, 1, .1f, .2f, .3f, .4f, .5f, .6f, .7f, .8f})};
  out.columns["token"] = {"", "", -kInfinity, kInfinity, Tensor::i64({5}, std::vector<int64_t>{1, 2, 3, INT64_MAX, INT64_MIN})};
  return out;
}

class Recordings : public testing::Test {
 protected:
  fs::path file() const { return folder_.path() / "trace.safetensors"; }
  std::string refusal(const std::function<void()>& act) const {
    try {
      act();
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find(file().string()), std::string::npos) << "does not name the file: " << error.what();
      return error.what();
    }
    return "accepted";
  }
  std::string reading() const {
    return refusal([&] { read_recording(file(), "draft_length"); });
  }
  // Writing refuses the example with this one fault.
  void expect_refused(const std::function<void(Recording&)>& fault, const std::string& expected) {
    Recording recording = example();
    fault(recording);
    const std::string writing = refusal([&] { write_recording(file(), recording); });
    EXPECT_NE(writing.find(expected), std::string::npos) << writing;
    EXPECT_FALSE(fs::exists(file())) << "something was written";
  }
  // The example's file with one piece of its index replaced.
  void expect_index_refused(const std::string& from, const std::string& to, const std::string& expected) {
    write_recording(file(), example());
    TensorFile contents = read_safetensors(file());
    std::string& index = contents.metadata.at("recording");
    const size_t at = index.find(from);
    ASSERT_NE(at, std::string::npos) << from << " is not in " << index;
    index.replace(at, from.size(), to);
    write_safetensors(file(), contents);
    const std::string found = reading();
    EXPECT_NE(found.find(expected), std::string::npos) << found;
  }
  // Not flushed to disk, for files by the thousand.
  void put(const std::string& bytes) const { std::ofstream(file(), std::ios::binary) << bytes; }
  TemporaryFolder folder_;
};

TEST_F(Recordings, ReturnWhatWasWritten) {
  const Recording was = example();
  write_recording(file(), was);
  const Recording is = read_recording(file(), "draft_length");
  EXPECT_EQ(is.environment, was.environment);
  EXPECT_EQ(is.facts, was.facts);
  EXPECT_EQ(is.rows(), 5);
  EXPECT_EQ(is.file, file().string());
  ASSERT_EQ(is.episodes.size(), was.episodes.size());
  for (size_t e = 0; e < is.episodes.size(); ++e) {
    EXPECT_EQ(is.episodes[e].first, was.episodes[e].first);
    EXPECT_EQ(is.episodes[e].rows, was.episodes[e].rows);
    EXPECT_EQ(is.episodes[e].labels, was.episodes[e].labels);
  }
  ASSERT_EQ(is.columns.size(), was.columns.size());
  for (const auto& [name, column] : was.columns) {
    const RecordedColumn& read = is.columns.at(name);
    EXPECT_EQ(read.unit, column.unit);
    EXPECT_EQ(read.doc, column.doc);
    EXPECT_EQ(read.low, column.low);
    EXPECT_EQ(read.high, column.high);
    EXPECT_EQ(read.values.shape, column.values.shape);
    EXPECT_EQ(read.values.bytes, column.values.bytes);
  }
}

TEST_F(Recordings, EqualContentsAreEqualBytes) {
  write_recording(file(), example());
  const std::string first = read_file(file());
  write_recording(file(), read_recording(file(), "draft_length"));
  EXPECT_EQ(read_file(file()), first);
}

TEST_F(Recordings, KeepRandomBoundsAndValuesExactly) {
  Draws draws(test_seed(), Stream::kTest, 81);
  for (int c = 0; c < 50; ++c) {
    const int64_t rows = 1 + draws.below(9), width = 1 + draws.below(3);
    std::vector<float> values;
    for (int64_t i = 0; i < rows * width; ++i) values.push_back(std::ldexp(draws.normal(), static_cast<int>(draws.below(200)) - 100));
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    Recording recording{"draft_length", {}, {{0, rows, {}}}, {}, {}};
    recording.columns["x"] = {"", "", *low, *high, Tensor::f32({rows, width}, values)};   // bounds that a rounding would break
    write_recording(file(), recording);
    const Recording read = read_recording(file(), "draft_length");
    EXPECT_EQ(read.columns.at("x").low, *low);
    EXPECT_EQ(read.columns.at("x").high, *high);
    const auto is = read.f32("x", width);
    EXPECT_EQ(std::vector<float>(is.begin(), is.end()), values);
  }
}

TEST_F(Recordings, GiveColumnsByNameTypeAndWidth) {
  write_recording(file(), example());
  const Recording it = read_recording(file(), "draft_length");
  EXPECT_EQ(it.f32("accepted")[2], 8);
  EXPECT_EQ(it.f32("chance", 2)[5], .4f);
  EXPECT_EQ(it.i64("token")[3], INT64_MAX);
  EXPECT_EQ(it.fact("producer"), "a test");
  EXPECT_NE(refusal([&] { it.f32("chance"); }).find("column 'chance': has 2 numbers of dtype F32 in a row, expected 1 of F32"), std::string::npos);
  EXPECT_NE(refusal([&] { it.i64("accepted"); }).find("expected 1 of I64"), std::string::npos);
  EXPECT_NE(refusal([&] { it.f32("rejected"); }).find("column 'rejected': is missing among accepted, chance, token"), std::string::npos);
  EXPECT_NE(refusal([&] { it.fact("hardware"); }).find("does not say its 'hardware'"), std::string::npos);
}

TEST_F(Recordings, CutShortAnywhereAreRefused) {
  write_recording(file(), example());
  const std::string whole = read_file(file());
  for (size_t length = 0; length < whole.size(); ++length) {
    put(whole.substr(0, length));
    EXPECT_NE(reading(), "accepted") << length << " of " << whole.size() << " bytes";
  }
  put(whole + '\0');
  EXPECT_NE(reading(), "accepted");
  fs::remove(file());
  EXPECT_NE(reading(), "accepted");
}

// A changed byte is refused with a sentence or read as another recording: never a crash, never numbers outside their bounds.
TEST_F(Recordings, DamagedBytesNeverBreakTheirPromise) {
  write_recording(file(), example());
  const std::string whole = read_file(file());
  Draws draws(test_seed(), Stream::kTest, 82);
  for (int c = 0; c < 1500; ++c) {
    std::string bytes = whole;
    bytes[draws.below(static_cast<uint32_t>(bytes.size()))] = static_cast<char>(draws.bits());
    put(bytes);
    try {
      const Recording it = read_recording(file(), "draft_length");
      for (const auto& [name, column] : it.columns) {
        if (column.values.dtype != "F32") continue;
        for (const float x : it.f32(name, column.width())) ASSERT_TRUE(std::isfinite(x) && x >= column.low && x <= column.high);
      }
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find(file().string()), std::string::npos) << error.what();
    }
  }
}

TEST_F(Recordings, RefuseColumnsThatDoNotFit) {
  const auto column = [](Tensor values) { return [values](Recording& it) { it.columns["chance"].values = values; }; };
  const auto numbers = [](float third) { return Tensor::f32({5}, std::vector<float>{0, 1, third, 0, 0}); };
  expect_refused(column(Tensor::f32({4}, std::vector<float>(4))), "column 'chance': has 4 rows, but column 'accepted' has 5");
  expect_refused(column(Tensor::f64({5}, std::vector<double>(5))), "column 'chance': has dtype F64, expected F32 or I64");
  expect_refused(column(Tensor::f32({5, 1, 1}, std::vector<float>(5))), "column 'chance': has shape [5, 1, 1], expected [rows] or [rows, width]");
  expect_refused(column(Tensor::f32({5, 0}, {})), "column 'chance': has shape [5, 0]");
  expect_refused(column(Tensor::f32({}, std::vector<float>(1))), "column 'chance': has shape []");
  expect_refused(column(numbers(1.5f)), "column 'chance': row 2 is 1.5, expected a finite number from 0 to 1; correct");
  expect_refused(column(numbers(-1e-30f)), "column 'chance': row 2 is -1e-30");
  expect_refused(column(numbers(NAN)), "column 'chance': row 2 is nan");
  expect_refused(column(Tensor::f32({5, 2}, std::vector<float>{0, 0, 0, 0, 0, 0, 0, 2, 0, 0})), "column 'chance': row 3, number 1 is 2");
  expect_refused(column(Tensor::i64({5}, std::vector<int64_t>{0, 0, 0, 0, -1})), "column 'chance': row 4 is -1");
  expect_refused([](Recording& it) { it.columns["accepted"].values = Tensor::f32({5}, std::vector<float>(5, 9)); }, "from 0 to 8 tokens");
  expect_refused([](Recording& it) { it.columns["chance"].low = NAN; }, "column 'chance': low is nan and high 1");
  expect_refused([](Recording& it) { it.columns["chance"].low = 2; }, "column 'chance': low is 2 and high 1");
  expect_refused([](Recording& it) { it.columns["__metadata__"] = it.columns["chance"]; }, "keeps this name for itself");
  expect_refused([](Recording& it) { it.columns.clear(); }, "has 0 columns and 2 episodes");
  for (const float bad : {kInfinity, -kInfinity})   // a column without bounds still is finite
    expect_refused([&](Recording& it) { it.columns["x"] = {"", "", -kInfinity, kInfinity, numbers(bad)}; }, "column 'x': row 2 is ");
}

TEST_F(Recordings, RefuseEpisodesThatDoNotFit) {
  const auto episodes = [](std::vector<RecordedEpisode> them) { return [them](Recording& it) { it.episodes = them; }; };
  expect_refused(episodes({}), "has 3 columns and 0 episodes");
  expect_refused(episodes({{0, 3, {}}, {2, 3, {}}}), "episode 1 begins at row 2, expected row 3");
  expect_refused(episodes({{0, 3, {}}, {4, 1, {}}}), "episode 1 begins at row 4, expected row 3");
  expect_refused(episodes({{1, 4, {}}}), "episode 0 begins at row 1, expected row 0");
  expect_refused(episodes({{3, 2, {}}, {0, 3, {}}}), "episode 0 begins at row 3, expected row 0");
  expect_refused(episodes({{0, 6, {}}}), "episode 0 has 6 rows from row 0, expected from 1 to 5");
  expect_refused(episodes({{0, 5, {}}, {5, 1, {}}}), "episode 1 has 1 rows from row 5");
  expect_refused(episodes({{0, 0, {}}, {0, 5, {}}}), "episode 0 has 0 rows");
  expect_refused(episodes({{0, 3, {}}, {3, INT64_MAX, {}}}), "episode 1 has 9223372036854775807 rows");
  expect_refused(episodes({{0, 3, {}}, {3, INT64_MIN, {}}}), "episode 1 has -9223372036854775808 rows");
  expect_refused(episodes({{0, 3, {}}}), "rows from 3 to 4 belong to no episode");
}

TEST_F(Recordings, RefuseTextThatIsNotUtf8) {
  for (const char* bad : {"\xFF", "\xC0\x80", "\xED\xA0\x80"}) {
    expect_refused([&](Recording& it) { it.facts["producer"] = bad; }, "not UTF-8");
    expect_refused([&](Recording& it) { it.episodes[0].labels[bad] = ""; }, "not UTF-8");
    expect_refused([&](Recording& it) { it.columns[bad] = it.columns["chance"]; }, "not UTF-8");
  }
}

TEST_F(Recordings, OfAnotherEnvironmentAreRefused) {
  write_recording(file(), example());
  const std::string message = refusal([&] { read_recording(file(), "adapter_router"); });
  const std::string expected = "environment is 'draft_length', but 'adapter_router' was to read it; give a recording made for 'adapter_router'";
  EXPECT_NE(message.find(expected), std::string::npos) << message;
}

TEST_F(Recordings, RefuseAnIndexWithWrongKeys) {
  expect_index_refused(R"("recording_version":1)", R"("recording_version":2,"new":0)", "recording_version is 2, but this version of trimtab reads 1");
  expect_index_refused(R"("recording_version":1)", R"("recording_version":1.0)", "recording_version is 1.0");
  expect_index_refused(R"("recording_version":1)", R"("recording_version":"1")", "recording_version is \"1\"");
  expect_index_refused(R"("recording_version":1)", R"("version":1)", "has no 'recording_version'");
  expect_index_refused(R"("facts":{)", R"("more":1,"facts":{)", "unknown key 'more'");
  expect_index_refused(R"("unit":"tokens")", R"("unti":"tokens")", "columns/accepted has the unknown key 'unti'; did you mean 'unit'?");
  expect_index_refused(R"("low":0.0,)", "", "columns/accepted has no key 'low'");
  expect_index_refused(R"("first":3,)", "", "episodes/1 has no key 'first'");
  expect_index_refused(R"("first":3,)", R"("first":3,"last":5,)", "episodes/1 has the unknown key 'last'");
  expect_index_refused(R"("first":3,)", R"("first":3,"first":3,)", "has the key 'first' twice in one object");
  expect_index_refused(R"("facts":{)", R"("facts":{"producer":"x",)", "has the key 'producer' twice in one object");
  expect_index_refused(R"("chance":{)", R"("chances":{)", "column 'chance': is not in the index");
  expect_index_refused(R"("columns":{)", R"("columns":{"more":{"unit":"","doc":"","low":null,"high":null},)",
                       "column 'more': is in the index, but there is no such tensor");
}

TEST_F(Recordings, RefuseAnIndexWithWrongValues) {
  expect_index_refused(R"("first":3)", R"("first":-3)", "episodes/1/first is -3, expected a whole number from 0");
  expect_index_refused(R"("first":3)", R"("first":3.0)", "episodes/1/first is 3.0");
  expect_index_refused(R"("first":3)", R"("first":9223372036854775808)", "episodes/1/first is 9223372036854775808");
  expect_index_refused(R"("first":3)", R"("first":2)", "episode 1 begins at row 2");
  expect_index_refused(R"("high":8.0)", R"("high":"8")", "columns/accepted/high is \"8\", expected a number, or null");
  expect_index_refused(R"("high":8.0)", R"("high":1e300)", "columns/accepted/high is 1e+300");
  expect_index_refused(R"("high":8.0)", R"("high":1e999)", "is not JSON");
  expect_index_refused(R"("high":8.0)", R"("high":7)", "column 'accepted': row 2 is 8, expected a finite number from 0 to 7 tokens");
  expect_index_refused(R"("unit":"tokens")", R"("unit":7)", "columns/accepted/unit is 7, expected text");
  expect_index_refused(R"("category":"code")", R"("category":null)", "episodes/0/labels/category is null, expected text");
  expect_index_refused(R"("labels":{})", R"("labels":[])", "episodes/1/labels is a list, expected an object");
  expect_index_refused(R"("environment":"draft_length")", R"("environment":["draft_length"])", "environment is a list, expected text");
  expect_index_refused(R"("environment")", "\"\\u001b[2J\":0,\"environment\"", "unknown key '?[2J'");
}

// Reading trusts no writer: the same faults in a file that something else made.
TEST_F(Recordings, RefuseTensorsThatDoNotFitTheIndex) {
  const auto with = [&](Tensor values) {
    write_recording(file(), example());
    TensorFile contents = read_safetensors(file());
    contents.tensors["accepted"] = std::move(values);
    write_safetensors(file(), contents);
    return reading();
  };
  EXPECT_EQ(with(Tensor::f32({5}, std::vector<float>(5, 8))), "accepted");
  EXPECT_NE(with(Tensor::f32({5}, std::vector<float>{0, 0, 0, NAN, 0})).find("column 'accepted': row 3 is nan, expected"), std::string::npos);
  EXPECT_NE(with(Tensor::f32({5}, std::vector<float>{0, 9, 0, 0, 0})).find("column 'accepted': row 1 is 9"), std::string::npos);
  EXPECT_NE(with(Tensor::f32({6}, std::vector<float>(6))).find("column 'chance': has 5 rows, but column 'accepted' has 6"), std::string::npos);
  EXPECT_NE(with(Tensor::u8({5}, std::vector<uint8_t>(5))).find("column 'accepted': has dtype U8"), std::string::npos);
  EXPECT_NE(with(Tensor::f32({0}, {})).find("column 'chance': has 5 rows"), std::string::npos);
}

TEST_F(Recordings, RefuseAnIndexThatIsNotJson) {
  const auto with = [&](const std::string& index) {
    write_recording(file(), example());
    TensorFile contents = read_safetensors(file());
    contents.metadata["recording"] = index;
    write_safetensors(file(), contents);
    return reading();
  };
  EXPECT_NE(with("").find("is not JSON"), std::string::npos);
  EXPECT_NE(with("{\"recording_version\":1").find("is not JSON"), std::string::npos);
  EXPECT_NE(with("{} {}").find("is not JSON"), std::string::npos);
  EXPECT_NE(with("[1]").find("has no 'recording_version'"), std::string::npos);
  EXPECT_NE(with(std::string("{}\0{}", 5)).find("zero byte"), std::string::npos);
  const std::string deep(1'000'000, '[');
  EXPECT_NE(with(deep).find("more than 4 levels"), std::string::npos);
  std::string objects;
  for (int i = 0; i < 200'000; ++i) objects += "{\"a\":";
  EXPECT_NE(with(objects).find("more than 4 levels"), std::string::npos);
}

TEST_F(Recordings, AreToldFromOtherSafetensorsFiles) {
  TensorFile contents;
  contents.tensors["x"] = Tensor::f32({1}, std::vector<float>{1});
  write_safetensors(file(), contents);
  EXPECT_NE(reading().find("has no metadata 'recording', so it is no recording"), std::string::npos);
  contents.metadata["format"] = "pt";
  write_safetensors(file(), contents);
  EXPECT_NE(reading().find("has the unknown metadata 'format'"), std::string::npos);
}

}  // namespace
}  // namespace trimtab
