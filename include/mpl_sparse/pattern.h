// The positions of a sparse matrix's nonzeros in CSR form, validated once and frozen from then on.
//
// Kernels take positions in no other form, so no index that a caller or a file supplies can read out of bounds.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace mpl_sparse {

class PlanCache;
struct TransposedPattern;

class Pattern {
 public:
  // row_ptr: rows + 1 entries that start at 0 and never fall; col_idx: row_ptr[rows] entries, strictly increasing within a row
  // and below cols. Both are copied. Throws std::invalid_argument that names the argument, the place and the value. O(rows +
  // nnz).
  static std::shared_ptr<const Pattern> from_csr(int64_t rows, int64_t cols, const int32_t* row_ptr, int64_t row_ptr_size,
                                                 const int32_t* col_idx, int64_t nnz);
  ~Pattern();
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t nnz() const { return static_cast<int64_t>(col_idx_.size()); }
  const int32_t* row_ptr() const { return row_ptr_.data(); }
  const int32_t* col_idx() const { return col_idx_.data(); }

  // The transpose and where its values come from. Built at first use, O(cols + nnz), then kept. Safe from any thread.
  const TransposedPattern& transposed() const;

  // The kernel plans of this pattern, built at first use for a geometry. Safe from any thread.
  PlanCache& plans() const { return *plans_; }

 private:
  Pattern(int64_t rows, int64_t cols, std::vector<int32_t> row_ptr, std::vector<int32_t> col_idx);

  const int64_t rows_;
  const int64_t cols_;
  const std::vector<int32_t> row_ptr_;
  const std::vector<int32_t> col_idx_;
  const std::unique_ptr<PlanCache> plans_;
};

struct TransposedPattern {
  std::shared_ptr<const Pattern> pattern;  // (cols, rows)
  std::vector<int32_t> order;              // values of the transpose: values[order[k]]
};

}  // namespace mpl_sparse
