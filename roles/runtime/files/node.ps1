# Calls node.py on a Windows PC, or takes off what it made. Nobody has run this on a real one.
#   look, install   node.py's own verbs; its JSON, or nothing where there is no Python yet
#   call            another Script with these Words; what it says, or nothing where there is no Python yet
#   python          let uv get a Python
#   left            names what there is of ours
#   remove          what there is of ours, tasks of ended runs among it; with Runs, of the runs, too
param(
    [Parameter(Mandatory)] [string] $Verb,
    [Parameter(Mandatory)] [string] $Root,
    [string] $Script = '',
    [string] $Order = '{}',
    [string[]] $Words = @(),
    [string] $Version = '',
    [string] $Mirror = '',
    [string] $Workdir = '',
    [string[]] $Ours = @(),
    [bool] $Runs = $false
)
$ErrorActionPreference = 'Stop'
$base = $Root -replace '^~', $env:USERPROFILE
$work = $Workdir -replace '^~', $env:USERPROFILE

function Find-Python {
    # What lies in WindowsApps opens the store instead of running.
    $known = @(Get-Command -Name @('python.exe', 'python3.exe') -All -ErrorAction SilentlyContinue | ForEach-Object { $_.Source })
    # Where python.org's installer puts one, for one user or for all; in the PATH only if somebody ticked that.
    foreach ($place in "$env:LOCALAPPDATA\Programs\Python", $env:ProgramFiles) {
        $known += @(Get-ChildItem "$place\Python3*\python.exe" -ErrorAction SilentlyContinue | ForEach-Object { $_.FullName })
    }
    $known += @(Get-ChildItem "$base\python\*\python.exe" -ErrorAction SilentlyContinue | ForEach-Object { $_.FullName })
    $known | Where-Object { $_ -notmatch 'WindowsApps' } | Select-Object -First 1
}

function Invoke-Program([string] $Program, [string[]] $Words) {
    # What a program writes to stderr is no error of PowerShell's, and with Stop its first line would end this script
    # (Windows PowerShell makes an error of each line that is redirected): the exit code says whether it failed.
    $ErrorActionPreference = 'Continue'
    $lines = @(& $Program @Words 2>&1)
    $code = $LASTEXITCODE
    $complained = @($lines | Where-Object { $_ -is [System.Management.Automation.ErrorRecord] } | ForEach-Object { $_.Exception.Message })
    $said = @($lines | Where-Object { $_ -isnot [System.Management.Automation.ErrorRecord] })
    if ($code -ne 0) {
        throw (($complained + $said) -join "`n")
    }
    $said -join "`n"
}

function Invoke-Node {
    $python = Find-Python
    if (-not $python) {
        return ''
    }
    $folder = Join-Path ([IO.Path]::GetTempPath()) ([Guid]::NewGuid())
    New-Item -ItemType Directory -Path $folder | Out-Null
    try {
        # Files, since Windows PowerShell loses the quotes of an argument. No byte order mark.
        [IO.File]::WriteAllText("$folder\node.py", $Script)
        [IO.File]::WriteAllText("$folder\order.json", $Order)
        $arguments = if ($Verb -eq 'call') { $Words } else { @($Verb, "@$folder\order.json") }
        return Invoke-Program $python (@('-I', "$folder\node.py") + $arguments)
    } finally {
        Remove-Item -Recurse -Force -Path $folder
    }
}

function Get-Left {
    $found = @($Ours | Where-Object { Test-Path (Join-Path $base $_) } | ForEach-Object { Join-Path $base $_ })
    if ($Runs -and (Test-Path $work)) {
        # A run's folder is known by its plan; a work folder may be anything that the inventory names.
        $found += @(Get-ChildItem -Path $work -Directory -Force | Where-Object {
                (Test-Path (Join-Path $_.FullName 'plan.json')) -or ($_.Name -in '.active', '.data') -or
                ($_.Name -eq '.boot' -and -not (Get-ChildItem -Path $_.FullName -Force))
            } | ForEach-Object { $_.FullName })
    }
    $found
}

function Remove-Task {
    # A supervisor deletes its task last, if it has the rights: it runs with fewer than whoever registered it.
    $tasks = @(Get-ScheduledTask -TaskPath '\smolcluster\' -ErrorAction SilentlyContinue)
    foreach ($task in $tasks) {
        # What it runs has files of the environment open, and Windows removes no open file.
        $null = Stop-ScheduledTask -TaskPath $task.TaskPath -TaskName $task.TaskName -ErrorAction SilentlyContinue
        Unregister-ScheduledTask -TaskPath $task.TaskPath -TaskName $task.TaskName -Confirm:$false
    }
    try {
        $scheduler = New-Object -ComObject Schedule.Service
        $scheduler.Connect()
        $scheduler.GetFolder('\').DeleteFolder('smolcluster', 0)
    } catch {
        # There is no such folder, most often.
        $null = $_
    }
    $tasks.Count -gt 0
}

function Remove-Registration {
    # Where a Python that uv got is written down for all programs to find (PEP 514): those of before uv was told not to.
    $company = 'HKCU:\Software\Python\Astral'
    $ours = [IO.Path]::GetFullPath("$base\python") + '\'
    $removed = $false
    foreach ($entry in @(Get-ChildItem -Path $company -ErrorAction SilentlyContinue)) {
        $place = Get-ItemProperty -Path "$($entry.PSPath)\InstallPath" -ErrorAction SilentlyContinue
        $folder = "$($place.'(default)')" -replace '^\\\\\?\\'
        if ($folder -and "$([IO.Path]::GetFullPath($folder))\".StartsWith($ours, [StringComparison]::OrdinalIgnoreCase)) {
            Remove-Item -Recurse -Force -Path $entry.PSPath
            $removed = $true
        }
    }
    # Where somebody's own uv has others, they and uv's name and address stay.
    if ($removed -and -not (Get-ChildItem -Path $company)) {
        Remove-Item -Recurse -Force -Path $company
    }
    $removed
}

switch ($Verb) {
    'python' {
        $env:UV_PYTHON_INSTALL_DIR = "$base\python"
        $env:UV_NO_CACHE = '1'
        # Nobody else is to find it, and nothing of it is to stay when the folder goes.
        $env:UV_PYTHON_INSTALL_REGISTRY = '0'
        if ($Mirror) {
            $env:UV_PYTHON_INSTALL_MIRROR = $Mirror
        }
        $null = Invoke-Program "$base\bin\uv.exe" @('--no-config', 'python', 'install', '--no-bin', $Version)
        $Ansible.Changed = $true
    }
    'left' {
        $Ansible.Changed = $false
        $Ansible.Result = @{ names = @($Ours | Where-Object { Test-Path (Join-Path $base $_) }) }
    }
    'remove' {
        $Ansible.Changed = Remove-Task
        if (Remove-Registration) {
            $Ansible.Changed = $true
        }
        foreach ($path in Get-Left) {
            Remove-Item -Recurse -Force -Path $path
            $Ansible.Changed = $true
        }
        foreach ($path in @($work, $base)) {
            if ($path -and (Test-Path $path) -and -not (Get-ChildItem -Path $path -Force)) {
                Remove-Item -Path $path
            }
        }
    }
    default {
        $Ansible.Changed = $Verb -eq 'install'
        $Ansible.Result = @{ said = Invoke-Node; home = $base; machine = $env:PROCESSOR_ARCHITECTURE }
    }
}
