# Completes longshore's words in bash. Load it with: source <(longshore completion bash)
_longshore() {
    local line="${COMP_LINE:0:COMP_POINT}" words current candidate breaks
    read -ra words <<< "$line"
    [[ "$line" == *[[:space:]] ]] && words+=("")
    current="${words[-1]}"
    COMPREPLY=()
    # bash replaces only what comes after the last of these within a word.
    breaks="${current%"${current##*[:=]}"}"
    while IFS= read -r candidate; do
        if [[ "$candidate" == ":files" ]]; then
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "${current##*=}")
            return
        fi
        candidate="${candidate%%$'\t'*}"
        COMPREPLY+=("${candidate#"$breaks"}")
    done < <("${words[0]}" __complete "${words[@]:1}" 2>/dev/null)
}
complete -F _longshore longshore
