#include "core/launch.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "core/error.h"

namespace trimtab {
namespace {

constexpr const char* kVariables[] = {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK",
                                      "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "TRIMTAB_RANK_TIMEOUT_S"};

// The environment of one launcher; what was there comes back at the end.
class LaunchTest : public testing::Test {
 protected:
  LaunchTest() {
    for (const char* name : kVariables) {
      if (const char* value = std::getenv(name)) before_[name] = value;
      unsetenv(name);
    }
  }
  ~LaunchTest() override {
    for (const char* name : kVariables) unsetenv(name);
    for (const auto& [name, value] : before_) setenv(name.c_str(), value.c_str(), 1);
  }
  static void set(const std::map<std::string, std::string>& variables) {
    for (const auto& [name, value] : variables) setenv(name.c_str(), value.c_str(), 1);
  }
  static std::string refusal() {
    try {
      Launch::of_environment();
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  }

 private:
  std::map<std::string, std::string> before_;
};

TEST_F(LaunchTest, WithoutALauncherThereIsOneRank) {
  const Launch launch = Launch::of_environment();
  EXPECT_EQ(launch.size, 1);
  EXPECT_EQ(launch.launcher, "");
  EXPECT_EQ(open_ranks(), nullptr);
}

TEST_F(LaunchTest, EveryLauncherIsUnderstood) {
  const std::vector<std::pair<std::string, std::map<std::string, std::string>>> cases = {
      {"mpirun", {{"OMPI_COMM_WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_RANK", "3"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}}},
      {"srun", {{"SLURM_STEP_ID", "0"}, {"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "3"}, {"SLURM_LOCALID", "1"}}},
      {"torchrun", {{"TORCHELASTIC_RUN_ID", "none"}, {"WORLD_SIZE", "4"}, {"RANK", "3"}, {"LOCAL_RANK", "1"}}}};
  for (const auto& [name, variables] : cases) {
    set(variables);
    const Launch launch = Launch::of_environment();
    EXPECT_EQ(launch.launcher, name);
    EXPECT_EQ(launch.rank, 3) << name;
    EXPECT_EQ(launch.size, 4) << name;
    EXPECT_EQ(launch.local_rank, 1) << name;
    for (const auto& [variable, value] : variables) unsetenv(variable.c_str());
  }
}

// A batch script has Slurm's numbers too, but it is one process; srun inside it may start mpirun's.
TEST_F(LaunchTest, OnlyTheStepThatStartedThisProcessCounts) {
  set({{"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}, {"SLURM_LOCALID", "0"}});
  EXPECT_EQ(Launch::of_environment().size, 1);
  set({{"SLURM_STEP_ID", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}, {"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}});
  EXPECT_EQ(Launch::of_environment().launcher, "mpirun");
}

TEST_F(LaunchTest, NumbersThatCannotBeAreRefusedByName) {
  set({{"OMPI_COMM_WORLD_SIZE", "4"}});
  EXPECT_NE(refusal().find("not OMPI_COMM_WORLD_RANK"), std::string::npos) << refusal();
  set({{"OMPI_COMM_WORLD_RANK", "four"}});
  EXPECT_NE(refusal().find("OMPI_COMM_WORLD_RANK=four"), std::string::npos) << refusal();
  set({{"OMPI_COMM_WORLD_RANK", "4"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "0"}});
  EXPECT_NE(refusal().find("contradict"), std::string::npos) << refusal();
  set({{"TRIMTAB_RANK_TIMEOUT_S", "-1"}});
  EXPECT_THROW(rank_timeout_s(), ConfigError);
}

}  // namespace
}  // namespace trimtab
