# What the modules for Windows share: a question to the smolcluster of this PC. Nobody has run this on a real one.
# Options go in as JSON on stdin and the result comes back as JSON on stdout, so nothing has to survive a command line.

Function Invoke-Smolcluster {
    param(
        [Parameter(Mandatory)] $Module,
        [Parameter(Mandatory)] [string] $Command
    )
    $options = @{}
    foreach ($name in $Module.Params.Keys) {
        if ($name -ne 'python' -and $null -ne $Module.Params[$name]) {
            $options[$name] = $Module.Params[$name]
        }
    }
    $python = [string]$Module.Params['python']
    if ($python.StartsWith('~')) {
        $python = [Environment]::GetFolderPath('UserProfile') + $python.Substring(1)
    }
    $utf8 = New-Object System.Text.UTF8Encoding $false
    $start = New-Object System.Diagnostics.ProcessStartInfo
    $start.FileName = $python
    $start.Arguments = "-X utf8 -m smolcluster job $Command"
    $start.UseShellExecute = $false
    $start.CreateNoWindow = $true
    $start.RedirectStandardInput = $true
    $start.RedirectStandardOutput = $true
    $start.RedirectStandardError = $true
    $start.StandardOutputEncoding = $utf8
    $start.StandardErrorEncoding = $utf8
    try {
        $process = [System.Diagnostics.Process]::Start($start)
    } catch {
        $Module.FailJson("$python cannot be started: $($_.Exception.Message)")
    }
    # Both are read while it runs: a full pipe would stop it.
    $said = $process.StandardOutput.ReadToEndAsync()
    $complained = $process.StandardError.ReadToEndAsync()
    $bytes = $utf8.GetBytes([Ansible.Basic.AnsibleModule]::ToJson($options))
    try {
        $process.StandardInput.BaseStream.Write($bytes, 0, $bytes.Length)
        $process.StandardInput.Close()
    } catch [System.IO.IOException] {
        # It has ended already; why stands in what it wrote.
        $null = $_
    }
    $process.WaitForExit()
    if ($process.ExitCode -ne 0) {
        $why = $complained.Result.Trim()
        if (-not $why) {
            $why = "$python -m smolcluster job $Command ended with code $($process.ExitCode)"
        }
        $Module.FailJson($why)
    }
    $answer = [Ansible.Basic.AnsibleModule]::FromJson($said.Result)
    foreach ($name in $answer.Keys) {
        $Module.Result[$name] = $answer[$name]
    }
}

Export-ModuleMember -Function Invoke-Smolcluster
