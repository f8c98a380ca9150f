# Take away the task that the note of a node names, where no smolcluster is left that could: what the task started, the
# task, its file, the note. Nobody has run this on a real Windows PC.
param([string]$Workdir, [string]$Node)
$note = Join-Path ($Workdir -replace '^~', $HOME) ".boot\$Node.json"
$Ansible.Changed = Test-Path $note
if (-not $Ansible.Changed) { return }
$boot = Get-Content -Raw -Encoding UTF8 $note | ConvertFrom-Json
# The note has the name with its folder; these cmdlets want them apart, and find nothing by both in one.
$at = @{ TaskPath = '\smolcluster\'; TaskName = Split-Path $boot.name -Leaf }
if (Get-ScheduledTask @at -ErrorAction SilentlyContinue) {
  Stop-ScheduledTask @at -ErrorAction SilentlyContinue
  try {
    Unregister-ScheduledTask @at -Confirm:$false -ErrorAction Stop
  } catch {
    # The note stays: by it the next call finds the task.
    $Ansible.Failed = $true
    $Ansible.Result = "$_. fix: in an administrator's terminal of that PC: schtasks /Delete /TN $($boot.name) /F"
    return
  }
}
foreach ($file in $boot.files.PSObject.Properties.Name) {
  Remove-Item -Force $file -ErrorAction SilentlyContinue
}
Remove-Item -Force $note
