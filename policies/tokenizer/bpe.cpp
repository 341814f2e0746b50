#include "policies/tokenizer/bpe.h"

#include <bit>
#include <mutex>
#include <queue>

#include "core/random.h"

namespace trimtab {
namespace {

constexpr size_t kCachedWordBytes = 64;  // longer words are rare
constexpr size_t kCachedWordsPerShard = 8192;
constexpr size_t kShards = 16;

uint64_t pair_key(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

struct Symbol {
  int32_t id;             // -1: merged into the one before
  int32_t before, after;  // neighbours, -1: none
};

struct Candidate {
  int32_t rank, position, product;
  // std::priority_queue puts the largest on top.
  bool operator<(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

}  // namespace

// Ids of words met before. Sharded by hash, so that threads seldom meet; a full shard starts anew.
class WordCache {
 public:
  bool append(std::string_view word, std::vector<int32_t>& ids) {
    Shard& shard = shard_of(word);
    const std::lock_guard lock(shard.mutex);
    const auto found = shard.words.find(word);
    if (found == shard.words.end()) return false;
    ids.insert(ids.end(), found->second.begin(), found->second.end());
    return true;
  }

  void put(std::string_view word, const int32_t* begin, const int32_t* end) {
    Shard& shard = shard_of(word);
    const std::lock_guard lock(shard.mutex);
    if (shard.words.size() >= kCachedWordsPerShard) shard.words.clear();
    shard.words.try_emplace(std::string(word), begin, end);
  }

 private:
  struct Shard {
    std::mutex mutex;
    std::unordered_map<std::string, std::vector<int32_t>, StringHash, std::equal_to<>> words;
  };
  Shard& shard_of(std::string_view word) { return shards_[mix64(StringHash()(word)) % kShards]; }
  std::array<Shard, kShards> shards_;
};

MergeTable::MergeTable(size_t num_merges) : entries_(std::bit_ceil(2 * num_merges + 2)) {}

size_t MergeTable::slot(uint64_t key) const {
  size_t at = mix64(key) & (entries_.size() - 1);
  while (entries_[at].rank >= 0 && entries_[at].key != key) at = (at + 1) & (entries_.size() - 1);
  return at;
}

bool MergeTable::insert(const BpeMerge& merge, int32_t rank) {
  Entry& entry = entries_[slot(pair_key(merge.left, merge.right))];
  if (entry.rank >= 0) return false;
  entry = {pair_key(merge.left, merge.right), rank, merge.product};
  return true;
}

const MergeTable::Entry* MergeTable::find(int32_t left, int32_t right) const {
  const Entry& entry = entries_[slot(pair_key(left, right))];
  return entry.rank < 0 ? nullptr : &entry;
}

std::vector<int32_t> MergeTable::products() const {
  std::vector<int32_t> ids;
  for (const Entry& entry : entries_) {
    if (entry.rank >= 0) ids.push_back(entry.product);
  }
  return ids;
}

Bpe::Bpe(Definition definition) : definition_(std::move(definition)), cache_(std::make_unique<WordCache>()) {}
Bpe::~Bpe() = default;

void Bpe::encode(std::string_view word, std::vector<int32_t>& ids) const {
  if (const auto whole = definition_.whole_words.find(word); whole != definition_.whole_words.end()) {
    ids.push_back(whole->second);
    return;
  }
  if (word.size() > kCachedWordBytes) return merge(word, ids);
  if (cache_->append(word, ids)) return;
  const size_t start = ids.size();
  merge(word, ids);
  cache_->put(word, ids.data() + start, ids.data() + ids.size());
}

void Bpe::merge(std::string_view word, std::vector<int32_t>& ids) const {
  const auto size = static_cast<int32_t>(word.size());
  std::vector<Symbol> symbols(word.size());
  std::vector<Candidate> storage;
  storage.reserve(word.size());
  std::priority_queue<Candidate> queue({}, std::move(storage));
  const auto offer = [&](int32_t left) {  // the pair that begins at `left`
    if (left < 0 || symbols[left].after < 0) return;
    const auto* found = definition_.merges.find(symbols[left].id, symbols[symbols[left].after].id);
    if (found != nullptr) queue.push({found->rank, left, found->product});
  };

  for (int32_t i = 0; i < size; ++i)
    symbols[i] = {definition_.byte_ids[static_cast<uint8_t>(word[i])], i - 1, i + 1 < size ? i + 1 : -1};
  for (int32_t i = 0; i + 1 < size; ++i) offer(i);

  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.position];
    if (left.id < 0 || left.after < 0) continue;
    // Either half may have changed since. Hugging Face goes by the product here, so an old rank still counts
    // when the new halves give the same token.
    const auto* now = definition_.merges.find(left.id, symbols[left.after].id);
    if (now == nullptr || now->product != best.product) continue;
    Symbol& right = symbols[left.after];
    left.id = best.product;
    left.after = right.after;
    right.id = -1;
    if (left.after >= 0) symbols[left.after].before = best.position;
    offer(left.before);
    offer(best.position);
  }
  for (int32_t i = 0; i >= 0 && i < size; i = symbols[i].after) ids.push_back(symbols[i].id);
}

}  // namespace trimtab
