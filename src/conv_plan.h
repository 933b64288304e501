// From a convolution's geometry to the plans that run it.
#pragma once

#include <memory>

#include "mpl_sparse/conv2d.h"
#include "mpl_sparse/pattern.h"
#include "plan_cache.h"

namespace mpl_sparse {

// One part: the outputs are the convolution's, the source its input, the values in the pattern's order.
std::shared_ptr<const ConvPlan> forward_plan(const Pattern& pattern, const Conv2dGeometry& geometry, const VectorUnit& unit);

// As the forward plan, with tiles for the gradient at the nonzeros.
std::shared_ptr<const ConvPlan> grad_weight_plan(const Pattern& pattern, const Conv2dGeometry& geometry, const VectorUnit& unit);

// One part for each phase of the stride: the outputs are the gradient to the input, the source is the gradient to the output.
std::shared_ptr<const ConvPlan> grad_input_plan(const Pattern& pattern, const Conv2dGeometry& geometry, const VectorUnit& unit);

}  // namespace mpl_sparse
