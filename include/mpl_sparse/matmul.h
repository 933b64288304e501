// y = x W^T + bias with a sparse W (out_features, in_features): a Pattern and its nnz values in row-major order.
//
// Scalar is float or double. Results hold the same bits for any number of threads. Views may have any strides; an output must not
// overlap an input or itself. Throws std::invalid_argument, naming the argument, before anything is written.
#pragma once

#include "mpl_sparse/activation.h"
#include "mpl_sparse/pattern.h"
#include "mpl_sparse/tensor.h"

namespace mpl_sparse {

// output (batch, out_features) = activation(input (batch, in_features) * W^T + bias). bias: out_features values, or data ==
// nullptr for none.
template <class Scalar>
void linear_forward(const Pattern& pattern, Vector<const Scalar> values, Matrix<const Scalar> input, Vector<const Scalar> bias,
                    Matrix<Scalar> output, int num_threads, Activation activation = Activation::none);

// grad_input (batch, in_features) = grad_output (batch, out_features) * W.
template <class Scalar>
void linear_grad_input(const Pattern& pattern, Vector<const Scalar> values, Matrix<const Scalar> grad_output,
                       Matrix<Scalar> grad_input, int num_threads);

// grad_values[k] = sum over the batch of grad_output[b, row k] * input[b, column k].
template <class Scalar>
void linear_grad_weight(const Pattern& pattern, Matrix<const Scalar> input, Matrix<const Scalar> grad_output,
                        Vector<Scalar> grad_values, int num_threads);

}  // namespace mpl_sparse
