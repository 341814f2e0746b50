// The operation of attention_decode.h on a CUDA device: many sequences and KV heads in one call, from the same packed pages, widths mixed
// page by page. A split-KV decode (Flash-Decoding): blocks take `split_pages` pages of a list each, and a second kernel merges them by
// their maxima and sums.
//
// Decoding reads each page once and should cost what that read costs. At 4 bits an H200 brings a page of 64 keys and values of 128 numbers
// to a multiprocessor in about 400 cycles; for a group of eight queries 4 x 8 bit dot products (dp4a) would take about 1000, and
// multiplying in float, after turning codes into floats, more. So the products are the tensor core's, 16 x 8 x 32 bytes: the layout's
// words of four codes are that product's right operand as they lie. Its sixteen left rows are eight queries as integers of 13 bits in two
// pieces, as on the CPU (kernels/attention_decode/attention_decode.h): query times the channel's scale, softmax weight times the value's
// scale. Rows of 16 bits meet eight queries in two pieces of f16, 22 bits.
//
// So what is computed is attention over the dequantised cache to about 2e-4 of the values' size, 16-bit pages to about f32. A group of up
// to eight query heads shares one read of the pages, larger ones take several blocks. Sums have an order of their own and no atomics:
// results repeat, and depend on split_pages alone, not on what else is in the batch. Statistics of the weights are the CPU's only.
#pragma once

#include "kernels/kv_pack/kv_pack_cuda.h"

namespace trimtab {

// KvPage on the device. Evicted: both widths 0. Pages of 16 bits for keys and values may be partially filled, others are whole. Not
// checked, since lists are in device memory.
struct KvPageCuda {
  const uint8_t* data = nullptr;   // aligned to 16
  int32_t tokens = 0;              // filled
  uint8_t key_bits = 16, value_bits = 16;
};

// All pointers are in device memory. T is float, Float16 or Bfloat16.
template <class T>
struct AttentionDecodeCuda {
  KvFormatCuda format;             // head_dim up to 256, pages of up to 64 tokens
  int64_t sequences = 0, kv_heads = 1, group = 1;   // query heads per KV head, which are behind one another
  float scale = 1;                 // of the scores, 1 / sqrt(head_dim) unless the queries have it
  const T* q = nullptr;            // [sequences, kv_heads * group, head_dim], sequences q_stride apart; rotated as the keys were
  int64_t q_stride = 0;
  const KvPageCuda* pages = nullptr;          // [sequences, kv_heads] lists, page_stride apart
  int64_t page_stride = 0, most_pages = 0;    // most_pages: no list is longer
  const int32_t* page_counts = nullptr;       // [sequences, kv_heads]: length of a list
  int64_t split_pages = 16;                   // pages that one block goes through, at most 64
  float* scratch = nullptr;                   // [attention_decode_scratch(a)]
  T* out = nullptr;                           // as q, sequences out_stride apart
  int64_t out_stride = 0;
};

template <class T>
int64_t attention_decode_splits(const AttentionDecodeCuda<T>& a) {
  return (a.most_pages + a.split_pages - 1) / a.split_pages;
}
template <class T>
int64_t attention_decode_scratch(const AttentionDecodeCuda<T>& a) {   // a maximum and a sum beside each partial result
  return a.sequences * a.kv_heads * a.group * attention_decode_splits(a) * (a.format.head_dim + 2);
}

// A format or sizes beyond what is said above are cudaErrorInvalidValue. A query that meets no key becomes zeros, one with a NaN or an
// infinity becomes NaN and harms no other. Work is queued on `stream`; no memory is allocated and nothing waits.
cudaError_t attention_decode_cuda(const AttentionDecodeCuda<float>& a, cudaStream_t stream);
cudaError_t attention_decode_cuda(const AttentionDecodeCuda<Float16>& a, cudaStream_t stream);
cudaError_t attention_decode_cuda(const AttentionDecodeCuda<Bfloat16>& a, cudaStream_t stream);

}  // namespace trimtab
