#include "aq/pipeline/entry.h"

#include "aq/forward/measure_forward.h"

const aq::PipelineEntry* aq_pipeline_entry() {
  static const aq::PipelineEntry entry{aq::quantize_model, aq::allocate, aq::evaluate_model,
                                       aq::expert_utilization, aq::measure_forward};
  return &entry;
}
