# Take away the task that the note of a node names, where no smolcluster is left that could: the note, what the task
# started, the task, its file. Nobody has run this on a real Windows PC.
param([string]$Workdir, [string]$Node)
$note = Join-Path ($Workdir -replace '^~', $HOME) ".boot\$Node.json"
$Ansible.Changed = Test-Path $note
if (-not $Ansible.Changed) { return }
$boot = Get-Content -Raw -Encoding UTF8 $note | ConvertFrom-Json
# First of all: a task whose run no note names starts nothing.
Remove-Item -Force $note
if (Get-ScheduledTask -TaskName $boot.name -ErrorAction SilentlyContinue) {
  Stop-ScheduledTask -TaskName $boot.name -ErrorAction SilentlyContinue
  try {
    Unregister-ScheduledTask -TaskName $boot.name -Confirm:$false -ErrorAction Stop
  } catch {
    $Ansible.Failed = $true
    $Ansible.Result = "$_. fix: in an administrator's terminal of that PC: schtasks /Delete /TN $($boot.name) /F"
  }
}
foreach ($file in $boot.files.PSObject.Properties.Name) {
  Remove-Item -Force $file -ErrorAction SilentlyContinue
}
