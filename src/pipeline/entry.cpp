#include "aq/pipeline/entry.h"

const aq::PipelineEntry* aq_pipeline_entry() {
  static const aq::PipelineEntry entry{aq::quantize_model, aq::evaluate_model,
                                       aq::expert_utilization};
  return &entry;
}
