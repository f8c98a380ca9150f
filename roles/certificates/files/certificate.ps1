# python -m smolcluster certificate VERB NODE on this machine; what it is Given goes to its stdin, its stdout is the text of the
# result. Nobody has run this on a real Windows PC.
param([string]$Python, [string]$Verb, [string]$Node, [string]$Given = '')

$Python = $Python -replace '^~', $HOME
$key = Join-Path $HOME ".smolcluster\certs\$Node\node.key"
$before = Test-Path $key
# A program's words on stderr are no error of PowerShell's: its exit code says whether it failed.
$ErrorActionPreference = 'Continue'
$lines = @($Given | & $Python -X utf8 -m smolcluster certificate $Verb $Node 2>&1)
$code = $LASTEXITCODE
$complained = @($lines | Where-Object { $_ -is [System.Management.Automation.ErrorRecord] } | ForEach-Object { $_.Exception.Message })
if ($code -ne 0) {
    throw "${Node}: $($complained -join "`n")"
}
$text = @($lines | Where-Object { $_ -isnot [System.Management.Automation.ErrorRecord] }) -join "`n"
$Ansible.Changed = ($Verb -eq 'request' -and -not $before) -or ($text -eq 'installed')
$Ansible.Result = @{ text = $text }
