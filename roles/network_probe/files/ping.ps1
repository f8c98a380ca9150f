# Which addresses answer a Windows PC, as probe.py says it; gateways and packet sizes are not looked at.
# Nobody has run this on a real one.
param(
    [Parameter(Mandatory)] [string[]] $Targets
)
$ErrorActionPreference = 'Stop'
$pings = @{}
foreach ($target in $Targets) {
    $answer = Test-Connection -ComputerName $target -Count 1 -ErrorAction SilentlyContinue
    # Windows PowerShell calls it ResponseTime, PowerShell 7 Latency; both count whole milliseconds.
    $trip = if ($null -eq $answer) { $null } elseif ($null -ne $answer.ResponseTime) { $answer.ResponseTime } else { $answer.Latency }
    $pings[$target] = @{ rtt_ms = $trip; hops = $null; mtu = $null }
}
$neighbours = Get-NetNeighbor -AddressFamily IPv4 | Select-Object -Property @('IPAddress', 'LinkLayerAddress') | ConvertTo-Json -Compress
$Ansible.Changed = $false
$Ansible.Result = @{
    pings = (@{ pings = $pings } | ConvertTo-Json -Compress -Depth 4)
    neighbours = [string]$neighbours
}
