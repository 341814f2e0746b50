// core/safetensors and core/recording, whose files are safetensors with an index in the metadata.
#include "core/error.h"
#include "core/recording.h"
#include "core/safetensors.h"
#include "fuzz/target.h"

namespace trimtab::fuzz {
namespace {

bool equal(const TensorFile& a, const TensorFile& b) {
  return a.metadata == b.metadata &&
         std::equal(a.tensors.begin(), a.tensors.end(), b.tensors.begin(), b.tensors.end(), [](const auto& x, const auto& y) {
           return x.first == y.first && x.second.dtype == y.second.dtype && x.second.shape == y.second.shape && x.second.bytes == y.second.bytes;
         });
}

void run_safetensors(Bytes input) {
  try {
    const TensorFile file = parse_safetensors(input, "input.safetensors");
    if (input.size() > (size_t{1} << 16)) return;   // of large inputs reading is what is bounded
    const std::string written = serialise_safetensors(file);
    FUZZ_CHECK(equal(parse_safetensors({reinterpret_cast<const uint8_t*>(written.data()), written.size()}, "again"), file));
  } catch (const DataError&) {
  }
}

void run_recording(Bytes input) {
  try {
    const Recording recording = read_recording(write_input("recording", input), "draft_length");
    FUZZ_CHECK(recording.rows() > 0 && !recording.columns.empty());
  } catch (const DataError&) {
  }
}

}  // namespace

extern const Target safetensors, recording;
const Target safetensors{"safetensors", run_safetensors};
const Target recording{"recording", run_recording};

}  // namespace trimtab::fuzz
