#compdef longshore
# Completes longshore's words in zsh: put it into a folder of $fpath as _longshore, or load it with
# source <(longshore completion zsh)
_longshore() {
    local line word
    local -a candidates
    while IFS= read -r line; do
        if [[ "$line" == ":files" ]]; then
            _files
            return
        fi
        word="${line%%$'\t'*}"
        word="${word//:/\\:}"
        [[ "$line" == *$'\t'* ]] && word+=":${line#*$'\t'}"
        candidates+=("$word")
    done < <("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)
    _describe 'longshore' candidates
}
if [[ "${funcstack[1]}" == "_longshore" ]]; then
    _longshore "$@"
else
    compdef _longshore longshore
fi
