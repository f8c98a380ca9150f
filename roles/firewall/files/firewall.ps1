# What firewall.py does on a Unix, for a Windows PC. Nobody has run this on a real one.
#   add     one rule of our group: this program, these ports, from these subnets. The firewall itself stays as it is
#   remove  every rule of our group
param(
    [Parameter(Mandatory)] [string] $Verb,
    [string] $Program = '',
    [string] $Ports = '',
    [string[]] $Subnets = @()
)
$ErrorActionPreference = 'Stop'
$group = 'smolcluster'
$rules = @(Get-NetFirewallRule -Group $group -ErrorAction SilentlyContinue)
$Ansible.Changed = $false

function ConvertTo-Subnet([string] $Address) {
    # What was given as 10.0.0.0/8 is shown with its mask, as 10.0.0.0/255.0.0.0.
    $network, $mask = $Address -split '/'
    if ($mask -notmatch '[.]') {
        return $Address
    }
    $bits = ($mask -split '[.]' | ForEach-Object { [Convert]::ToString([int]$_, 2) }) -join '' -replace '0'
    "$network/$($bits.Length)"
}

function Test-Rule($Rule) {
    $application = $Rule | Get-NetFirewallApplicationFilter
    $port = $Rule | Get-NetFirewallPortFilter
    $address = $Rule | Get-NetFirewallAddressFilter
    $from = (@($address.RemoteAddress) | ForEach-Object { ConvertTo-Subnet $_ } | Sort-Object) -join ','
    ($application.Program -eq $path) -and ($port.LocalPort -eq $Ports) -and ($from -eq (($Subnets | Sort-Object) -join ','))
}

if ($Verb -eq 'remove') {
    if ($rules.Count -gt 0) {
        $Ansible.Changed = $true
        if (-not $Ansible.CheckMode) {
            Remove-NetFirewallRule -Group $group
        }
    }
} else {
    $path = $Program -replace '^~', $env:USERPROFILE
    # The environment's python.exe starts the one that it was made of, which is what listens.
    $configuration = Join-Path (Split-Path (Split-Path $path)) 'pyvenv.cfg'
    if (Test-Path $configuration) {
        $line = Select-String -Path $configuration -Pattern '^executable\s*=\s*(.+)$'
        if ($line) {
            $path = $line.Matches[0].Groups[1].Value.Trim()
        }
    }
    $right = @($rules | Where-Object { Test-Rule $_ })
    if (($rules.Count -ne 1) -or ($right.Count -ne 1)) {
        $Ansible.Changed = $true
        if (-not $Ansible.CheckMode) {
            if ($rules.Count -gt 0) {
                Remove-NetFirewallRule -Group $group
            }
            New-NetFirewallRule -DisplayName 'smolcluster' -Group $group -Direction Inbound -Action Allow -Protocol TCP `
                -Program $path -LocalPort $Ports -RemoteAddress $Subnets | Out-Null
        }
    }
}
