# Completes longshore's words in fish. Load it with: longshore completion fish | source
function __longshore_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found ($words[1] __complete $words[2..-1] 2>/dev/null)
    if test "$found[1]" = ":files"
        __fish_complete_path (commandline -ct)
    else
        printf '%s\n' $found
    end
end
complete -c longshore -f -a '(__longshore_complete)'
