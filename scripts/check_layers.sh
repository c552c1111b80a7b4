#!/bin/sh
# Prints each #include "folder/file.h" that goes up or sideways in the house, and exits 1 when there is one.
# A floor may include itself and what stands behind its colon; "engine" is the folder itself, without its subfolders.
cd "$(dirname "$0")/.." || exit 1

found=$(find engine catalog worker pipeline tests -type f \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null | sort |
    xargs -r awk '
    BEGIN {
        allowed["engine/base"] = " engine/base "
        allowed["engine/volume"] = " engine/base engine/volume "
        allowed["engine/cpu"] = " engine/base engine/cpu "
        allowed["engine/cuda"] = " engine/base engine/cuda "
        allowed["engine"] = " engine engine/base engine/volume "
        allowed["catalog"] = " catalog engine/base engine/volume "
        allowed["worker"] = " worker engine engine/base engine/volume "
        allowed["pipeline"] = " pipeline worker catalog engine engine/base engine/volume engine/cpu engine/cuda "
        allowed["tests"] = allowed["tests/fuzz"] = allowed["pipeline"] "tests tests/fuzz tests/emulation "
        # Single files beyond the folders: what a device implements, and the records a worker gets.
        files["engine/cpu"] = files["engine/cuda"] = " engine/device.h engine/plan.h "
        files["worker"] = " catalog/study.h "
    }
    function folder(path) { sub(/\/[^\/]*$/, "", path); return path }
    /^[ \t]*#[ \t]*include[ \t]*"/ {
        split($0, part, "\"")
        from = folder(FILENAME)
        to = part[2] ~ /\// ? folder(part[2]) : "(no folder)"
        if (!index(allowed[from], " " to " ") && !index(files[from], " " part[2] " "))
            printf "%s:%d: %s may not include %s\n", FILENAME, FNR, from, part[2]
    }
    /^[ \t]*#[ \t]*include[ \t]*</ {
        match($0, /<[^>]*>/)
        name = substr($0, RSTART + 1, RLENGTH - 2)
        from = folder(FILENAME)
        if ((name ~ /^(mpi|hdf5)/ && from !~ /^(pipeline|tests)$/) || (name == "sqlite3.h" && from !~ /^(catalog|pipeline|tests)$/) ||
            (name ~ /^nifti/ && from !~ /^(engine\/volume|tests)$/) || (name ~ /^cuda/ && from !~ /^(engine\/cuda|tests\/emulation)$/) ||
            (name == "yaml.h" && from != "engine/base"))
            printf "%s:%d: %s may not use <%s>\n", FILENAME, FNR, from, name
    }')

[ -z "$found" ] && exit 0
printf '%s\n' "$found"
exit 1
