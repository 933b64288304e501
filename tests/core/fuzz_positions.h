// The input of the fuzz target fuzz_positions.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "mpl_sparse/codec.h"

struct FuzzHeader {
  int64_t divisor;
  uint32_t nnz, numel;
  uint8_t kind;  // of the coding in two bits, then zeros; the rest is how much is read at a time
  uint8_t padding[7];
};

std::vector<uint8_t> fuzz_input(const mpl_sparse::Coding& coding, int64_t nnz, int64_t numel, const std::vector<uint8_t>& packed);

// Whether the input is accepted. Ends the process when something is broken.
int fuzz_one(const uint8_t* data, size_t size);
