#!/bin/sh
# The demo says what came out, and notices when that is not what should.
. "$(dirname "$0")/tap.sh"
tap_begin
cd "$work" || exit 1
export NO_COLOR=1

# came_out NAME FOLDER: 16 scans scored and exported, and the damaged one reported.
came_out()
{
    is "$1: a row a study and label" "$(grep -c '^hippocampus_[0-9]* .*\(Anterior\|Posterior\)' out)" 32
    ok "$1: the damaged scan is reported" grep -q '^damaged_001 .*failed, unreadable: .*damaged or cut short' out
    says "$1: verified" "verified 16 masks"
    says "$1: verdict" "16 studies scored, 1 failed as planted; largest difference from the reference Dice 0.00"
    is "$1: masks" "$(find "$2/masks" -name 'hippocampus_*.nii.gz' | wc -l | tr -d ' ')" 16
    is "$1: table" "$(wc -l <"$2/report.csv" | tr -d ' ')" 34
    says "$1: says where" "$(realpath "$2")/report.csv"
}

exits "a folder with spaces in its name" 0 env DEMO_DIR="$work/a small archive" "$root/scripts/demo.sh"
came_out "spaces" "a small archive"

ln -s "$root" checkout
exits "a checkout by another name, a relative folder" 0 env DEMO_DIR=here/below checkout/scripts/demo.sh
came_out "relative" here/below
exits "once more in the same folder" 0 env DEMO_DIR=here/below checkout/scripts/demo.sh

mkdir precious && echo data >precious/file
exits "a folder that holds something else" 1 env DEMO_DIR=precious "$root/scripts/demo.sh"
says "... is left alone" "precious is not empty" err
is "... whole" "$(cat precious/file)" data

mkdir -p copy/demo copy/scripts
cp "$root/scripts/demo.sh" copy/scripts/
cp -R "$root/demo/archive" copy/demo/
ln -s "$root/models" copy/models
sed 's/^\(hippocampus_045,2\),0/\1,1/' "$root/demo/expected.csv" >copy/demo/expected.csv
exits "a Dice that is not the reference's" 1 env DEMO_DIR="$work/third" copy/scripts/demo.sh
says "... is named" "demo: hippocampus_045,2: Dice 0.8"
says "... and ends it" "the results are not what they should be" err
exits "a program that is not there" 1 env NOC=nowhere DEMO_DIR="$work/fourth" copy/scripts/demo.sh
says "... is said" "make it first" err
tap_end
