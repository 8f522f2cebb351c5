"""Private API of Keras, TensorFlow and JAX: all that this adapter touches of it, here alone.

Each item says what it is for. All were seen in Keras 3.15, TensorFlow 2.21 and JAX 0.10; for each
there is a contract test in `tests/adapters/keras/compat/`, which fails where a release
changes it.
"""

from .backends import (
    called_on_host_by_jax as called_on_host_by_jax,
    gradients_are_recorded as gradients_are_recorded,
    host_primitive as host_primitive,
    on_each_replica as on_each_replica,
    traced_by_jax as traced_by_jax,
    variables_outside as variables_outside,
)
from .models import (
    ConvLSTMCell as ConvLSTMCell,
    SavedBeside as SavedBeside,
    SavedState as SavedState,
    StateLayer as StateLayer,
    add_state as add_state,
    before_calls as before_calls,
    before_epoch_end as before_epoch_end,
    callbacks_beside as callbacks_beside,
    fit_was_interrupted as fit_was_interrupted,
    flat_layers as flat_layers,
    in_variables as in_variables,
    input_layer_of as input_layer_of,
    is_training as is_training,
    own_trainable_variables as own_trainable_variables,
    reads_state_to_train as reads_state_to_train,
    remove_state as remove_state,
    save_beside_weights as save_beside_weights,
    state_of as state_of,
    sublayers as sublayers,
    track_variable as track_variable,
    trainer_trains as trainer_trains,
)
from .operation_names import (
    COMPOSED as COMPOSED,
    ELEMENTWISE as ELEMENTWISE,
    OURS as OURS,
    PRODUCTS as PRODUCTS,
    sections_of as sections_of,
)
from .optimizers import (
    ShowsMovingAverage as ShowsMovingAverage,
    UpdateStep as UpdateStep,
    around_update as around_update,
    before_weight_decay as before_weight_decay,
    calls_of_apply as calls_of_apply,
    decays as decays,
    exclude_alike as exclude_alike,
    float32_like as float32_like,
    forget_variable as forget_variable,
    index_of as index_of,
    key_of as key_of,
    know_variables as know_variables,
    own_variables as own_variables,
    publicly as publicly,
    recording_state as recording_state,
    without_weight_decay as without_weight_decay,
)
from .replaced import (
    around_items_of_variables as around_items_of_variables,
    around_layer_calls as around_layer_calls,
    backend_function as backend_function,
    before_from_config as before_from_config,
    function_in_place as function_in_place,
    keep_policies_of_models as keep_policies_of_models,
    replace_backend_function as replace_backend_function,
    replace_compiled_steps as replace_compiled_steps,
    replace_method as replace_method,
    replace_operators as replace_operators,
    replace_private_function as replace_private_function,
)
from .watched import (
    Seen as Seen,
    dispatched_operations as dispatched_operations,
    is_called_by_a_library as is_called_by_a_library,
    is_users as is_users,
    layer_scope as layer_scope,
    operations_in_program as operations_in_program,
)
