# What gather.py asks a Windows PC; the answers by the command's own text. Nobody has run this on a real one.
param(
    [Parameter(Mandatory)] [string[]] $Commands
)
$ErrorActionPreference = 'Stop'
$prefix = 'powershell.exe -NoProfile -NonInteractive -Command '
$answers = @{}
foreach ($command in $Commands) {
    $line = $command.Substring($prefix.Length)
    $answers[$command] = [string](& ([scriptblock]::Create($line)))
}
$answers['SSH_CONNECTION'] = [string]$env:SSH_CONNECTION
$Ansible.Changed = $false
$Ansible.Result = $answers
