"""Private API of PyTorch: all that this adapter touches of it, and nothing of it anywhere else.

Each item says what it is for. All were seen in PyTorch 2.13; for each there is a contract test in
`tests/adapters/torch/compat`, which fails where a release changes it.
"""

from .autograd import (
    backward_hooks as backward_hooks,
    backward_id as backward_id,
    function_running_in as function_running_in,
    is_transformed as is_transformed,
    module_hooked_in as module_hooked_in,
    next_node_number as next_node_number,
    node_number as node_number,
    outside_transforms as outside_transforms,
    parameter_hooks as parameter_hooks,
    replace_backward as replace_backward,
    replace_checkpointed as replace_checkpointed,
    running_node as running_node,
    transforms_are_active as transforms_are_active,
    version_of as version_of,
)
from .compiler import (
    TracedNode as TracedNode,
    check_before_tracing as check_before_tracing,
    choose_branches as choose_branches,
    compile_flex_attention_in as compile_flex_attention_in,
    constant as constant,
    is_compiled as is_compiled,
    never_traced_first as never_traced_first,
    show_to_modes as show_to_modes,
    traced_nodes as traced_nodes,
    without_modes as without_modes,
)
from .distributed import (
    ddp_joins as ddp_joins,
    groups_of_ddp as groups_of_ddp,
    groups_of_fsdp as groups_of_fsdp,
    shard_window as shard_window,
)
from .modules import (
    AVERAGE_POOLS as AVERAGE_POOLS,
    WRAPPED as WRAPPED,
    BatchNorm as BatchNorm,
    ConvNd as ConvNd,
    ConvTransposeNd as ConvTransposeNd,
    NormBase as NormBase,
    call_impl_of as call_impl_of,
    check_before_replicating as check_before_replicating,
    forward_hooks as forward_hooks,
    forward_pre_hooks as forward_pre_hooks,
    parameters_of as parameters_of,
    stand_in as stand_in,
)
from .operators import (
    DispatchMode as DispatchMode,
    is_higher_order as is_higher_order,
    is_operator as is_operator,
    lost_weight as lost_weight,
    native_functions as native_functions,
    operator_name as operator_name,
    overload_name as overload_name,
    positional_arguments as positional_arguments,
    safe_softmax as safe_softmax,
    without_interception as without_interception,
)
from .optimizers import (
    complete_lbfgs as complete_lbfgs,
    has_step_hooks as has_step_hooks,
    keep_step_hooks as keep_step_hooks,
    run_first_after_step as run_first_after_step,
    run_first_before_step as run_first_before_step,
    step_without_hooks as step_without_hooks,
)
