// Traces against what Sionna computed from the same files (data/traces/formats/expected.json), and files that
// must be refused with a sentence that helps.
#include "domain/radio/trace.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "core/error.h"

namespace trimtab::radio {
namespace {

const std::filesystem::path kFormats = std::filesystem::path(TRIMTAB_SOURCE_DIR) / "data/traces/formats";

const nlohmann::json& expected() {
  static const nlohmann::json json = nlohmann::json::parse(std::ifstream(kFormats / "expected.json"));
  return json;
}

std::vector<std::string> files_of(const std::string& section) {
  std::vector<std::string> names;
  for (const auto& [name, value] : expected().at(section).items()) names.push_back(name);
  return names;
}

std::string test_name(const testing::TestParamInfo<std::string>& info) {
  return info.param.substr(0, info.param.find('.'));
}

TraceOptions options_for(const nlohmann::json& entry) {
  TraceOptions options;
  options.precoder = "average";  // the expected values of multi-antenna files are means over antenna pairs
  if (!entry.contains("needs_overrides")) return options;
  options.axis0 = "episode";
  options.subcarrier_spacing = expected().at("subcarrier_spacing");
  options.num_prb = expected().at("num_prb");
  options.slot_duration = expected().at("slot_duration");
  return options;
}

void expect_gain(double want, double got, const std::string& where) {
  if (want == 0) {
    EXPECT_EQ(got, 0) << where;
  } else {
    EXPECT_NEAR(got / want, 1, 1e-4) << where;
  }
}

class GoodFile : public testing::TestWithParam<std::string> {};

TEST_P(GoodFile, GivesSionnasGains) {
  const nlohmann::json& entry = expected().at("good").at(GetParam());
  const TraceOptions options = options_for(entry);
  const auto prbs = expected().at("prbs").get<std::vector<int64_t>>();
  if (entry.contains("examples")) {
    const auto source = open_trace(kFormats / GetParam(), options);
    ASSERT_EQ(source->info().num_drops, entry.at("examples").get<int64_t>());
    for (int64_t drop = 0; drop < 5; ++drop) {
      for (size_t j = 0; j < prbs.size(); ++j) {
        expect_gain(entry["prb_gain"][drop][j], source->drop(drop)->at(0, 0)[prbs[j]],
                    fmt::format("drop {}", drop));
      }
    }
    return;
  }
  const auto slots = expected().at("slots").get<std::vector<int64_t>>();
  const DropGains some = read_gains(kFormats / GetParam(), options, 0, slots);
  const auto source = open_trace(kFormats / GetParam(), options);
  const auto whole = source->drop(0);
  const TraceInfo& info = source->info();
  EXPECT_EQ(info.num_drops, entry.at("episodes").get<int64_t>());
  EXPECT_EQ(info.slots_per_drop, entry.at("slots").get<int64_t>());
  EXPECT_EQ(info.num_users, entry.at("users").get<int64_t>());
  EXPECT_EQ(info.axis0, entry.at("axis0").get<std::string>());
  EXPECT_EQ(info.num_prb, expected().at("num_prb").get<int64_t>());
  EXPECT_EQ(info.hash.size(), 32u);
  const auto rx = static_cast<double>(info.rx_antennas);
  for (int64_t user = 0; user < info.num_users; ++user) {
    for (size_t i = 0; i < slots.size(); ++i) {
      for (size_t j = 0; j < prbs.size(); ++j) {
        const double want = entry["prb_gain"][user][i][j];
        const int64_t at = user * info.num_prb + prbs[j];
        const std::string where = fmt::format("user {} slot {} PRB {}", user, slots[i], prbs[j]);
        expect_gain(want, some.at(0, static_cast<int64_t>(i))[at] / rx, where);
        expect_gain(want, whole->at(0, slots[i])[at] / rx, where);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, GoodFile, testing::ValuesIn(files_of("good")), test_name);

class BadFile : public testing::TestWithParam<std::string> {};

std::string refusal(const std::filesystem::path& file, const TraceOptions& options) {
  try {
    inspect_trace(file, options);
  } catch (const DataError& error) {
    return error.what();
  }
  return "";
}

// What the sentence must name beside the file: the dataset or attribute at fault, and something to do about
// it.
const std::map<std::string, std::vector<std::string>>& sentences() {
  static const std::map<std::string, std::vector<std::string>> words = {
      {"missing_tau.h5", {"'tau'", "store it"}},
      {"missing_a.h5", {"'a'", "'h_freq'", "docs/traces.md"}},
      {"nan_in_a.h5", {"'a'", "NaN", "[0,1,0,0,0,2,7]", "repair"}},
      {"inf_in_tau.h5", {"'tau'", "infinity", "[0,2,0,1]", "repair"}},
      {"wrong_rank.h5", {"'a'", "6 axes", "must have 7"}},
      {"tau_shape_mismatch.h5", {"'tau'", "[1, 3, 1, 22]", "must be"}},
      {"tau_users_mismatch.h5", {"'tau'", "[1, 2, 1, 23]", "must be"}},
      {"tau_wrong_rank.h5", {"'tau'", "[1, 3, 1, 23, 1]", "must be"}},
      {"zero_length_axis.h5", {"'a'", "at least 1"}},
      {"no_episodes.h5", {"'a'", "at least 1"}},
      {"no_attributes.h5", {"subcarrier_spacing", "num_prb", "slot_duration", "axis0", "give"}},
      {"no_subcarrier_spacing.h5", {"subcarrier_spacing", "num_prb", "give"}},
      {"bad_axis0.h5", {"'axis0'", "banana", "slot, episode"}},
      {"negative_slot_duration.h5", {"'slot_duration'", "-0.0005", "positive"}},
      {"future_version.h5", {"'format_version'", "99", "convert"}},
      {"real_a.h5", {"'a'", "real", "complex_axis"}},
      {"integer_a.h5", {"'a'", "complex64"}},
      {"compound_wrong_members.h5", {"'a'", "magnitude", "{r, i}"}},
      {"a_is_group.h5", {"'a'", "group"}},
      {"paired_without_imaginary.h5", {"'a_im'", "pair"}},
      {"lzf_filter.h5", {"'a'", "LZF", "32000", "gzip"}},
      {"native_complex.h5", {"'a'", "complex", "{r, i}"}},
      {"truncated.h5", {"truncated", "again"}},
      {"corrupt_chunk.h5", {"'a'", "damaged", "again"}},
      {"not_hdf5.h5", {"not an HDF5 file"}},
      {"empty.h5", {"empty", "again"}},
  };
  return words;
}

TEST_P(BadFile, IsRefusedWithACure) {
  const std::filesystem::path file = kFormats / "bad" / GetParam();
  const std::string message = refusal(file, {});
  EXPECT_NE(message.find(file.string()), std::string::npos) << message;
  ASSERT_TRUE(sentences().contains(GetParam())) << "say here what the message must name";
  for (const std::string& word : sentences().at(GetParam())) {
    EXPECT_NE(message.find(word), std::string::npos) << "'" << word << "' is not in: " << message;
  }
}

TEST_P(BadFile, IsRefusedFromAChildProcessToo) {
  TraceOptions options;
  options.untrusted = true;
  EXPECT_EQ(refusal(kFormats / "bad" / GetParam(), options), refusal(kFormats / "bad" / GetParam(), {}));
}

INSTANTIATE_TEST_SUITE_P(Formats, BadFile, testing::ValuesIn(files_of("bad")), test_name);

TEST(TraceOptionsGiven, MakeAFileWithoutAttributesReadable) {
  TraceOptions options;
  options.subcarrier_spacing = 30e3;
  options.num_prb = 51;
  options.slot_duration = 0.5e-3;
  options.sampling_frequency = 2000;
  options.axis0 = "episode";
  const TraceInfo info = inspect_trace(kFormats / "bad/no_attributes.h5", options);
  EXPECT_EQ(info.slots_per_drop, 20);
}

}  // namespace
}  // namespace trimtab::radio
