// Traces of random shapes, written here with the HDF5 library, against a plain evaluation of the formulas in
// docs/traces.md; how files are cut into drops; and damaged bytes.
#include <gtest/gtest.h>
#include <hdf5.h>
#include <unistd.h>

#include <cmath>
#include <complex>
#include <cstdlib>
#include <fstream>
#include <numbers>

#include "core/error.h"
#include "core/random.h"
#include "domain/radio/trace.h"
#include "domain/radio/trace_untrusted.h"

namespace trimtab::radio {
namespace {

using Complex = std::complex<double>;

uint64_t test_seed() {
  const char* text = std::getenv("TRIMTAB_TEST_SEED");
  return text == nullptr ? 4711 : std::strtoull(text, nullptr, 10);
}

// A trace in memory, and the file it is written to.
struct Trace {
  bool slot_axis = false, tau_per_antenna = false;
  int64_t drops = 1, slots = 4, users = 2, rx = 1, tx = 1, ta = 1, paths = 3, samples = 1, prb = 2;
  std::vector<std::complex<float>> a;  // [rows, users, rx, tx, ta, paths, time]
  std::vector<double> tau;
  std::vector<double> time, drop;
  int64_t slots_per_drop = 0;

  int64_t rows() const { return slot_axis ? drops * slots : drops; }
  int64_t time_length() const { return slot_axis ? samples : slots * samples; }
  std::vector<hsize_t> a_shape() const { return cast({rows(), users, rx, tx, ta, paths, time_length()}); }
  std::vector<hsize_t> tau_shape() const {
    return tau_per_antenna ? cast({rows(), users, rx, tx, ta, paths}) : cast({rows(), users, tx, paths});
  }
  static std::vector<hsize_t> cast(const std::vector<int64_t>& shape) { return {shape.begin(), shape.end()}; }
  static size_t product(const std::vector<hsize_t>& shape) {
    size_t n = 1;
    for (const hsize_t x : shape) n *= x;
    return n;
  }

  void fill(Draws& draws) {
    a.resize(product(a_shape()));
    for (auto& value : a) value = {draws.normal(), draws.normal()};
    tau.resize(product(tau_shape()));
    for (double& value : tau) value = draws.uniform() < 0.2f ? -1.0 : 3e-6 * draws.uniform();
  }

  Complex gain_of(int64_t d, int64_t slot, int64_t sample, int64_t u, int64_t r, int64_t t, int64_t b,
                  int64_t m) const {
    const int64_t row = slot_axis ? d * slots + slot : d, at = slot_axis ? sample : slot * samples + sample;
    return Complex(a[(((((row * users + u) * rx + r) * tx + t) * ta + b) * paths + m) * time_length() + at]);
  }
  double delay_of(int64_t d, int64_t slot, int64_t u, int64_t r, int64_t t, int64_t b, int64_t m) const {
    const int64_t row = slot_axis ? d * slots + slot : d;
    return tau_per_antenna ? tau[((((row * users + u) * rx + r) * tx + t) * ta + b) * paths + m]
                           : tau[((row * users + u) * tx + t) * paths + m];
  }
  // Mean of |h|^2 over antenna pairs, samples of the slot and subcarriers of the PRB.
  double mean_gain(int64_t d, int64_t slot, int64_t u, int64_t t, int64_t p) const {
    double sum = 0;
    for (int64_t r = 0; r < rx; ++r) {
      for (int64_t b = 0; b < ta; ++b) {
        for (int64_t s = 0; s < samples; ++s) {
          for (int64_t k = 12 * p; k < 12 * p + 12; ++k) {
            Complex h = 0;
            const double f = static_cast<double>(k - 12 * prb / 2) * 30e3;
            for (int64_t m = 0; m < paths; ++m) {
              const double delay = delay_of(d, slot, u, r, t, b, m);
              if (delay >= 0)
                h += gain_of(d, slot, s, u, r, t, b, m) * std::polar(1.0, -2 * std::numbers::pi * f * delay);
            }
            sum += std::norm(h);
          }
        }
      }
    }
    return sum / static_cast<double>(rx * ta * samples * 12);
  }
};

class TraceFile : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / fmt::format("trimtab-traces-{}", getpid());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static void put_number(hid_t object, const char* name, double value) {
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t attribute = H5Acreate2(object, name, H5T_NATIVE_DOUBLE, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, H5T_NATIVE_DOUBLE, &value);
    H5Aclose(attribute);
    H5Sclose(space);
  }
  static void put_word(hid_t object, const char* name, const std::string& value) {
    const hid_t space = H5Screate(H5S_SCALAR), type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, value.size());
    const hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, type, value.data());
    H5Aclose(attribute);
    H5Tclose(type);
    H5Sclose(space);
  }
  static void put_array(hid_t file, const char* name, hid_t type, const std::vector<hsize_t>& shape,
                        const void* data) {
    const hid_t space = H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr);
    const hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
    H5Dclose(dataset);
    H5Sclose(space);
  }

  std::filesystem::path write(const Trace& trace, const std::string& name) const {
    const std::filesystem::path path = folder_ / name;
    const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    const hid_t complex = H5Tcreate(H5T_COMPOUND, 8);
    H5Tinsert(complex, "r", 0, H5T_NATIVE_FLOAT);
    H5Tinsert(complex, "i", 4, H5T_NATIVE_FLOAT);
    put_array(file, "a", complex, trace.a_shape(), trace.a.data());
    put_array(file, "tau", H5T_NATIVE_DOUBLE, trace.tau_shape(), trace.tau.data());
    if (!trace.time.empty())
      put_array(file, "time", H5T_NATIVE_DOUBLE, {trace.time.size()}, trace.time.data());
    if (!trace.drop.empty())
      put_array(file, "drop", H5T_NATIVE_DOUBLE, {trace.drop.size()}, trace.drop.data());
    H5Tclose(complex);
    put_word(file, "axis0", trace.slot_axis ? "slot" : "episode");
    put_number(file, "subcarrier_spacing", 30e3);
    put_number(file, "num_prb", static_cast<double>(trace.prb));
    put_number(file, "slot_duration", 0.5e-3);
    put_number(file, "sampling_frequency", 2000.0 * static_cast<double>(trace.samples));
    if (trace.slots_per_drop > 0)
      put_number(file, "slots_per_drop", static_cast<double>(trace.slots_per_drop));
    H5Fclose(file);
    return path;
  }
  // One row per slot, one user, one path whose power is the row's number plus one.
  static Trace counting(int64_t rows) {
    Trace trace;
    trace.slot_axis = true;
    trace.slots = rows;
    trace.users = trace.paths = trace.prb = 1;
    for (int64_t row = 0; row < rows; ++row)
      trace.a.emplace_back(std::sqrt(static_cast<float>(row + 1)), 0.0f);
    trace.tau.assign(static_cast<size_t>(rows), 0.0);
    return trace;
  }
  static std::string refusal(const std::filesystem::path& path, const TraceOptions& options = {}) {
    try {
      open_trace(path, options);
    } catch (const DataError& error) {
      return error.what();
    }
    return "";
  }
  std::filesystem::path folder_;
};

TEST_F(TraceFile, OfAnyShapeGivesTheFormulasGains) {
  for (uint32_t number = 0; number < 40; ++number) {
    Draws draws(test_seed(), Stream::kTest, number);
    Trace trace;
    trace.slot_axis = draws.below(2) == 1;
    trace.tau_per_antenna = draws.below(3) == 0;
    trace.drops = 1 + draws.below(3);
    trace.slots = 1 + draws.below(40);
    trace.users = 1 + draws.below(4);
    trace.rx = 1 + draws.below(2);
    trace.tx = 1 + draws.below(3);
    trace.ta = 1 + draws.below(3);
    trace.paths = 1 + draws.below(6);
    trace.samples = 1 + draws.below(3);
    trace.prb = 1 + draws.below(5);
    trace.slots_per_drop = trace.slot_axis ? trace.slots : 0;
    trace.fill(draws);
    TraceOptions options;
    options.precoder = "average";
    options.serving = draws.below(static_cast<uint32_t>(trace.tx));
    const auto source = open_trace(write(trace, "random.h5"), options);
    ASSERT_EQ(source->info().num_drops, trace.drops);
    ASSERT_EQ(source->info().slots_per_drop, trace.slots);
    for (int64_t d = 0; d < trace.drops; ++d) {
      const auto drop = source->drop(d);
      for (int64_t t = 0; t < trace.tx; ++t) {
        const bool serving = t == options.serving;
        const int64_t place = serving ? 0 : t < options.serving ? t + 1 : t;
        for (int64_t slot = 0; slot < trace.slots; ++slot) {
          for (int64_t u = 0; u < trace.users; ++u) {
            for (int64_t p = 0; p < trace.prb; ++p) {
              const double want =
                  trace.mean_gain(d, slot, u, t, p) * (serving ? static_cast<double>(trace.rx) : 1.0);
              ASSERT_NEAR(drop->at(place, slot)[u * trace.prb + p], want, 2e-5 * (want + 1))
                  << "case " << number;
            }
          }
        }
      }
    }
  }
}

TEST_F(TraceFile, DropColumnMarksDropsOfAnyLength) {
  Trace trace = counting(7);
  trace.drop = {0, 0, 0, 4, 4, 9, 9};
  const auto source = open_trace(write(trace, "drops.h5"));
  EXPECT_EQ(source->info().num_drops, 3);
  EXPECT_EQ(source->info().slots_per_drop, 2);
  EXPECT_EQ(source->drop(0)->num_slots, 3);
  EXPECT_NEAR(*source->drop(1)->at(0, 1), 5, 1e-5);
  EXPECT_NEAR(*source->drop(2)->at(0, 0), 6, 1e-5);
}

TEST_F(TraceFile, TimeThatRestartsBeginsADrop) {
  Trace trace = counting(6);
  trace.time = {0, 0.5e-3, 1e-3, 0, 0.5e-3, 1e-3};
  const auto source = open_trace(write(trace, "time.h5"));
  EXPECT_EQ(source->info().num_drops, 2);
  EXPECT_NEAR(*source->drop(1)->at(0, 0), 4, 1e-5);
  trace.time = {0, 1, 2, 3, 4, 5};  // seconds are not slots of half a millisecond
  EXPECT_NE(refusal(write(trace, "seconds.h5")).find("'time'"), std::string::npos);
}

TEST_F(TraceFile, SlotsPerDropComesFromOptionThenColumnThenAttribute) {
  Trace trace = counting(12);
  trace.slots_per_drop = 4;
  EXPECT_EQ(open_trace(write(trace, "attribute.h5"))->info().num_drops, 3);
  trace.drop = {0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1};
  const auto path = write(trace, "both.h5");
  EXPECT_EQ(open_trace(path)->info().num_drops, 2);
  TraceOptions options;
  options.slots_per_drop = 3;
  EXPECT_EQ(open_trace(path, options)->info().num_drops, 4);
  options.slots_per_drop = 5;
  EXPECT_NE(refusal(path, options).find("slots_per_drop = 5"), std::string::npos);
}

TEST_F(TraceFile, OnlyTheDropAskedForIsRead) {
  Draws draws(test_seed(), Stream::kTest);
  Trace trace;
  trace.drops = 3;
  trace.fill(draws);
  const size_t per_drop = trace.a.size() / 3;
  trace.a[per_drop + 5] = {std::nanf(""), 0};
  const auto source = open_trace(write(trace, "nan.h5"));
  EXPECT_NO_THROW(source->drop(0));
  EXPECT_NO_THROW(source->drop(2));
  EXPECT_THROW(source->drop(1), DataError);
}

TEST_F(TraceFile, WrongTimesAndStationsAreRefused) {
  Draws draws(test_seed(), Stream::kTest);
  Trace trace;
  trace.fill(draws);
  const auto path = write(trace, "plain.h5");
  TraceOptions options;
  options.serving = 1;
  EXPECT_NE(refusal(path, options).find("serving station 1"), std::string::npos);
  options = {};
  options.sampling_frequency = 3000;  // one sample and a half per slot
  EXPECT_NE(refusal(path, options).find("samples per slot"), std::string::npos);
  options.sampling_frequency = 2000 * 100;  // a slot longer than the file
  EXPECT_NE(refusal(path, options).find("less than one slot"), std::string::npos);
  EXPECT_THROW(read_gains(path, {}, 9, {}), DataError);
  EXPECT_THROW(read_gains(path, {}, 0, std::vector<int64_t>{99}), DataError);
}

TEST_F(TraceFile, DamagedBytesNeverEndTheProcess) {
  Draws draws(test_seed(), Stream::kTest);
  Trace trace;
  trace.fill(draws);
  std::ifstream in(write(trace, "whole.h5"), std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  TraceOptions options;
  options.untrusted = true;
  int refused = 0;
  for (int trial = 0; trial < 30; ++trial) {
    std::string damaged = bytes;
    for (int k = 0; k < 12; ++k)
      damaged[draws.below(static_cast<uint32_t>(bytes.size()))] = static_cast<char>(draws.below(256));
    const std::filesystem::path path = folder_ / "damaged.h5";
    std::ofstream(path, std::ios::binary) << damaged;
    const std::string message = refusal(path, options);
    refused += !message.empty();
    EXPECT_TRUE(message.empty() || message.find(path.string()) != std::string::npos) << message;
  }
  EXPECT_GT(refused, 0);
}

TEST_F(TraceFile, FilesCutShortAndFlippedBitsAreRefusedByTheChild) {
  Draws draws(test_seed(), Stream::kTest);
  Trace trace;
  trace.fill(draws);
  std::ifstream in(write(trace, "whole.h5"), std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  const std::filesystem::path path = folder_ / "damaged.h5";
  const ChildLimits limits{.memory_bytes = uint64_t{1} << 30, .cpu_seconds = 20, .wall_seconds = 60};
  const auto check = [&](const std::string& damaged, bool must_refuse) {
    std::ofstream(path, std::ios::binary) << damaged;
    try {
      parse_in_child(path, {}, limits);
      EXPECT_FALSE(must_refuse) << damaged.size() << " of " << bytes.size() << " bytes";
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find(path.string()), std::string::npos) << error.what();
    }
  };
  for (const size_t part : {0, 1, 2, 4, 6, 7}) check(bytes.substr(0, bytes.size() * part / 8), true);
  check(bytes.substr(0, bytes.size() - 1), true);
  for (int trial = 0; trial < 10; ++trial) {
    std::string damaged = bytes;
    damaged[draws.below(static_cast<uint32_t>(bytes.size()))] ^= static_cast<char>(1 << draws.below(8));
    check(damaged, false);
  }
  check(bytes, false);
}

TEST(BundledTraces, AreWhatTheyAreTakenFor) {
  const std::filesystem::path folder = std::filesystem::path(TRIMTAB_SOURCE_DIR) / "data/traces";
  const struct {
    const char* name;
    int64_t min_drops, slots;
  } files[] = {{"umi-train.h5", 6, 1000}, {"umi-val.h5", 4, 250}, {"umi-heldout.h5", 30, 125}};
  for (const auto& file : files) {
    const auto source = open_trace(folder / file.name);
    const TraceInfo& info = source->info();
    EXPECT_GE(info.num_drops, file.min_drops) << file.name;
    EXPECT_EQ(info.slots_per_drop, file.slots) << file.name;
    EXPECT_EQ(info.num_users, 10) << file.name;
    EXPECT_EQ(info.num_prb, 51) << file.name;
    EXPECT_EQ(info.carrier_frequency, 3.5e9) << file.name;
    EXPECT_EQ(info.slot_duration, 0.5e-3) << file.name;
    for (const float gain : source->drop(info.num_drops - 1)->gain) ASSERT_GT(gain, 0) << file.name;
  }
}

}  // namespace
}  // namespace trimtab::radio
