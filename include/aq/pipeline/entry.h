#pragma once
/// The forward pass needs LibTorch, which takes half a second to load. So the program opens the
/// library of this module only when a command needs it, through these functions without mangled
/// names; programs that link the library call aq::quantize_model and aq::evaluate_model themselves.

#include "aq/core/dtype.h"
#include "aq/eval/evaluate.h"
#include "aq/pipeline/allocate.h"
#include "aq/pipeline/quantize.h"

namespace aq {

struct PipelineEntry {
  RunSummary (*quantize_model)(const QuantizeOptions&, Communicator&);
  Allocation (*allocate)(const AllocateOptions&, Communicator&);
  EvaluateResult (*evaluate_model)(const EvaluateOptions&, Communicator&);
  Utilization (*expert_utilization)(const EvaluateOptions&, Communicator&);
  /// Floating point operations a second of one core in linears, with all threads at work.
  double (*measure_forward)(DType dtype);
};

}  // namespace aq

extern "C" const aq::PipelineEntry* aq_pipeline_entry();
