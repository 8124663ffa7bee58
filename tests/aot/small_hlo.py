"""A small program as text: a loop of five turns, with a product, a gather and a loop of three."""

TEXT = """\
HloModule small, is_scheduled=true

FileNames
1 "small.py"

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%product (left: f32[8,16], right: f32[16,4]) -> f32[8,4] {
  %left = f32[8,16]{1,0:T(8,128)} parameter(0)
  %right = f32[16,4]{1,0:T(8,128)} parameter(1)
  ROOT %convolution.1 = f32[8,4]{1,0:T(8,128)} convolution(%left, %right), dim_labels=bf_io->bf
}

%inner_condition (state.1: (s32[], f32[8,4])) -> pred[] {
  %state.1 = (s32[], f32[8,4]{1,0}) parameter(0)
  %turn.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %three = s32[]{:T(128)} constant(3)
  ROOT %less.1 = pred[] compare(%turn.1, %three), direction=LT
}

%inner_body (state.2: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %state.2 = (s32[], f32[8,4]{1,0}) parameter(0)
  %turn.2 = s32[] get-tuple-element(%state.2), index=0
  %value.2 = f32[8,4]{1,0} get-tuple-element(%state.2), index=1
  %summed = f32[8,4]{1,0} all-reduce(%value.2), channel_id=2, replica_groups=[2,2]<=[4], \
use_global_device_ids=true, to_apply=%add, backend_config={"estimated_cycles":"7"}
  ROOT %next.2 = (s32[], f32[8,4]{1,0}) tuple(%turn.2, %summed)
}

%condition (state.3: (s32[], f32[4,16], f32[16,4])) -> pred[] {
  %state.3 = (s32[], f32[4,16]{1,0}, /*index=2*/f32[16,4]{1,0}) parameter(0)
  %turn.3 = s32[] get-tuple-element(%state.3), index=0
  %seven = s32[] constant(7)
  ROOT %less.3 = pred[] compare(%turn.3, %seven), direction=LT, metadata={op_name="a/while"}
}

%body (state.4: (s32[], f32[4,16], f32[16,4])) -> (s32[], f32[4,16], f32[16,4]) {
  %state.4 = (s32[], f32[4,16]{1,0}, f32[16,4]{1,0}) parameter(0)
  %turn.4 = s32[] get-tuple-element(%state.4), index=0
  %part = f32[4,16]{1,0} get-tuple-element(%state.4), index=1
  %weight = f32[16,4]{1,0} get-tuple-element(%state.4), index=2
  %whole = f32[8,16]{1,0:T(8,128)S(1)} all-gather(%part), channel_id=1, \
replica_groups={{0,1},{2,3}}, dimensions={0}, use_global_device_ids=true
  %fusion.1 = f32[8,4]{1,0:T(8,128)} fusion(%whole, %weight), kind=kOutput, calls=%product, \
metadata={op_name="jit(step)/mlp/dot_general" stack_frame_id=3}, \
backend_config={"window_config":{"estimated_cycles":"3000"}}
  %zero.4 = s32[] constant(0)
  %start.4 = (s32[], f32[8,4]{1,0}) tuple(%zero.4, %fusion.1)
  %inner = (s32[], f32[8,4]{1,0}) while(%start.4), condition=%inner_condition, body=%inner_body
  ROOT %next.4 = (s32[], f32[4,16]{1,0}, f32[16,4]{1,0}) tuple(%turn.4, %part, %weight)
}

ENTRY %main (x: f32[4,16], w: f32[16,4]) -> f32[4,16] {
  %x = f32[4,16]{1,0:T(8,128)} parameter(0), sharding={devices=[2,1]<=[2]}
  %w = f32[16,4]{1,0:T(8,128)} parameter(1)
  %two = s32[] constant(2)
  %start = (s32[], f32[4,16]{1,0}, f32[16,4]{1,0}) tuple(%two, %x, %w)
  %loop = (s32[], f32[4,16]{1,0}, f32[16,4]{1,0}) while(%start), condition=%condition, body=%body
  ROOT %result = f32[4,16]{1,0} get-tuple-element(%loop), index=1, frontend_attributes={about={
"text":"{ in two lines }"
}}, metadata={op_name="jit(step)/out"}
}
"""
