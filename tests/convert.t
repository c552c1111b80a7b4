#!/bin/sh
# scripts/convert_checkpoint.py: what training scripts leave becomes a model folder, or is refused with a sentence.
. "$(dirname "$0")/tap.sh"
tap_begin
golden=$root/tests/data/golden weights=$root/tests/data/golden/tiny_weights.safetensors
mkdir "$work/made" "$work/pickled"
ok "checkpoints" "$PYTHON" "$root/tests/checkpoints.py" make "$weights" "$work/made"
cd "$work/made" || exit 1

number=0
# The flags that a whole call has, in variables that a test can leave empty.
usual()
{
    heads=1,2,5,8 scale=head_dim channels=a,b prepare=none window=32,32,32 labels=one,two
}

# turned NAME CODE CHECKPOINT FLAGS...
turned()
{
    turned_name=$1 turned_code=$2 checkpoint=$3
    shift 3
    number=$((number + 1)) model=$work/model$number
    exits "$turned_name" "$turned_code" "${python:-$PYTHON}" "$root/scripts/convert_checkpoint.py" "$checkpoint" "$model" \
        --nocturne "$NOC" ${heads:+--heads "$heads"} ${scale:+--attention-scale "$scale"} ${channels:+--channels "$channels"} \
        ${prepare:+--prepare "$prepare"} ${window:+--window "$window"} ${labels:+--labels "$labels"} "$@"
}

# refused NAME SENTENCE CHECKPOINT FLAGS...: nothing is left behind
refused()
{
    refused_name=$1 sentence=$2
    shift 2
    turned "$refused_name" 1 "$@"
    says "... with a sentence" "$sentence" "$work/err"
    ok "... in one line" test "$(wc -l <"$work/err")" = 1
    ok "... and no folder" test -z "$(find "$work" -maxdepth 1 -name "model$number*")"
}

usual
both=$golden/tiny_32x32x32.safetensors
turned "safetensors" 0 good.safetensors --against "$both,$both"
says "its logits are those of the golden file" "compared: the engine and"
ok "the same tensors" "$PYTHON" "$root/tests/checkpoints.py" same "$weights" "$model"
exits "infer takes the folder" 0 "$NOC" plan -m "$model"
for name in module lightning f64; do
    turned "$name" 0 $name.safetensors
    ok "... the same tensors" "$PYTHON" "$root/tests/checkpoints.py" same "$weights" "$model"
done
turned "without the optional groups" 0 no_bias.safetensors
labels='' prepare=zscore_nonzero
turned "regions" 0 good.safetensors --regions TC=2+3,WT=1+2+3,ET=3 --overlap 0.25 \
    --blend constant --prepare 'crop start=0,1,2 size=32,32,32'
says "... and steps with values" '"truth_labels": [1, 2, 3]' "$model/model.yaml"
exits "a folder that is there" 1 "$PYTHON" "$root/scripts/convert_checkpoint.py" good.safetensors "$model"
says "... is not touched" "is there already" "$work/err"
usual

# What the tensors do not tell is asked for.
for flag in heads scale channels prepare window; do
    usual
    eval "$flag=''"
    refused "without --$flag" "--$(echo $flag | sed s/scale/attention-scale/) is missing" good.safetensors
done
usual
labels=''
refused "neither labels nor regions" "one of --labels and --regions is needed" good.safetensors
usual
refused "heads that do not share out" "5 heads do not share out a width of 64" good.safetensors --heads 1,2,5,5
refused "three heads" "--heads 1,2,5: 4 whole numbers" good.safetensors --heads 1,2,5
refused "other channels" "the network has 2" good.safetensors --channels a
refused "other labels" "3 output channels are the background and 2 labels" good.safetensors --labels a
prepare=' '
refused "a step without a name" "input.prepare.step must be text" good.safetensors
prepare=sharpen
refused "a step that the program does not know" "there is no step sharpen" good.safetensors
usual
refused "another stem" "--patch-stride is missing: the patch kernels [[3, 5, 5], 3, 3, 3]" stem.safetensors
refused "another stem's padding" "--patch-padding is missing" stem.safetensors --patch-stride 2x4x4,2,2,2
turned "another stem in full" 0 stem.safetensors --patch-stride 2x4x4,2,2,2 --patch-padding 1x2x2,1,1,1

# Several trainings of one network, averaged, with flips.
turned "folds and flips" 0 good.safetensors --fold f64.safetensors --fold module.safetensors --mirror z,x
says "... in the order given" 'weights: ["fold_0.safetensors", "fold_1.safetensors", "fold_2.safetensors"]' "$model/model.yaml"
exits "the program takes the folder" 0 "$NOC" plan -m "$model"
says "... as 3 networks and 4 flips" "a window is 12 passes, the mean of 3 networks"
refused "a fold of another network" "no_bias.safetensors is of another network than good.safetensors" good.safetensors \
    --fold no_bias.safetensors
refused "an axis that is none" "an axis is z, y or x" good.safetensors --mirror z,t

# What is no checkpoint of this network.
refused "one of a group missing" "tf_block3.1.attention.query.bias is missing" partly.safetensors
refused "a tensor missing" "linear_pred.bias is missing" missing.safetensors
refused "a misshapen tensor" "linear_pred.bias is (7,)" misshapen.safetensors
refused "a tensor without values" "patch_embeddings.weight holds no values" hollow.safetensors
refused "a tensor without axes" "attention.sr.weight has 0 axes instead of 5" flat.safetensors
refused "blocks that are not there" "the blocks of stage 1 are 0, 1, 99999999" gap.safetensors
refused "values that are not finite" "not finite" nan.safetensors
refused "a foreign tensor" "loss.weight and 0 others are no part" foreign.safetensors
refused "an unexpected tensor" "linear_pred.scale is no part" unexpected.safetensors
refused "two networks" "several networks: '', 'a.'" two.safetensors
refused "the other network of that name" "the other network that goes by this name" other.safetensors
refused "another network" "is no SegFormer3D" unet.safetensors
refused "cut short" "damaged or was not copied whole" short.safetensors
refused "cut in the header" "no safetensors file" head.safetensors
refused "empty" "is empty" empty.safetensors
refused "noise" "no safetensors file" noise.safetensors
refused "no file" "there is no such file" nothing.safetensors

# The logits of the checkpoint's own code tell heads and scale.
refused "another scale" "with --heads 1,2,5,8 --attention-scale head_dim they agree" good.safetensors \
    --attention-scale num_heads --against "$both,$both"
refused "logits that are not finite" "nan_logits.safetensors holds values that are not finite" good.safetensors \
    --against "$both,nan_logits.safetensors"
refused "other heads" "with --heads 1,2,5,8 --attention-scale head_dim they agree" good.safetensors --heads 1,1,1,1 \
    --against "$both,$both"
refused "other weights" "other heads and scales fits" no_bias.safetensors --against "$both,$both"
refused "another stride" "--patch-stride, --patch-padding or the input are others" good.safetensors \
    --patch-stride 3,2,2,2 --patch-padding 3,1,1,1 --against "$both,$both"

python=$(torch_python)
if [ -n "$python" ]; then
    ok "pickled checkpoints" "$python" "$root/tests/checkpoints.py" pickled "$weights" "$work/pickled"
    cd "$work/pickled" || exit 1
    for name in plain.pth wrapped.pth module.pth old.bin; do
        turned "$name" 0 $name --verify
        says "... verified" "verified: engine and PyTorch differ by"
        ok "... the same tensors" "$PYTHON" "$root/tests/checkpoints.py" same "$weights" "$model"
    done
    turned "folds and flips" 0 plain.pth --fold half.pth --mirror z,y,x --verify
    says "... verified" "verified: engine and PyTorch differ by"
    turned "bfloat16" 0 half.pth --verify
    turned "without the optional groups" 0 ../made/no_bias.safetensors --verify
    says "... verified" "verified: engine and PyTorch differ by"
    refused "several sets of weights" "(state_dict, ema): choose one with --key" several.pth
    turned "... chosen" 0 several.pth --key ema
    refused "another key" "name its key with --key" unknown.pth
    turned "... named" 0 unknown.pth --key weights_of_mine
    refused "... a wrong one" "has no tensors under --key x" unknown.pth --key x
    refused "a list" "holds no state dict" list.pth
    refused "what would be executed" "which would be executed, and nothing was" malicious.pth
    refused "the same in an old file" "which would be executed, and nothing was" malicious_old.bin
    refused "arguments beside the tensors" "holds more than tensors (argparse.Namespace)" arguments.pth
    refused "cut short" "cannot be read as a PyTorch checkpoint" short.pth
    refused "noise" "cannot be read as a PyTorch checkpoint" noise.pth
    ok "nothing was executed" test ! -e executed
else
    skip "pickled checkpoints, --verify" "no Python with PyTorch (make peers)"
fi
tap_end
