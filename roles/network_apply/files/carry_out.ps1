# What carry_out.py does on a Unix, for a Windows PC: do what a plan says, or take it back. Nobody has run this on a real one.
#   arm        save the plan; a scheduled task takes it back unless it is called off
#   apply      the plan's commands; the first that fails ends it
#   call-off   the task ends, and the plan stays; how it is taken back goes into kept.json, the newest first
#   take-back  the plan is taken back now; the task does that
#   left       what rollback would do; nothing where there is nothing
#   rollback   take back the plan, and all that stayed before it
# A task outlives a reboot, unlike the guard of a Unix: a plan that nobody has called off is then taken back late.
param(
    [Parameter(Mandatory)] [string] $Verb,
    [Parameter(Mandatory)] [string] $Folder,
    [int] $Seconds = 0,
    [string] $Plan = '',
    [string] $Self = ''
)
$ErrorActionPreference = 'Stop'
$task = 'smolcluster-network'
$underWay = Join-Path $Folder 'plan.json'
$begun = Join-Path $Folder 'begun'
$kept = Join-Path $Folder 'kept.json'
$script = Join-Path $Folder 'carry_out.ps1'

function Get-Guard {
    Get-ScheduledTask -TaskName $task -ErrorAction SilentlyContinue
}

function Remove-Guard {
    if (Get-Guard) {
        Unregister-ScheduledTask -TaskName $task -Confirm:$false
    }
}

function Get-Undo([string] $Path) {
    if (Test-Path $Path) {
        @((Get-Content -Raw -Path $Path | ConvertFrom-Json).rollback)
    }
}

function Invoke-Action($Action) {
    # The last word of the argument list is a line of PowerShell; the others call PowerShell itself.
    $line = $Action.argv[-1]
    & ([scriptblock]::Create($line)) | Out-Null
}

function Invoke-Undo($Actions) {
    # All that can be; what could not is given back, with the reason.
    foreach ($action in $Actions) {
        try {
            Invoke-Action $action
        } catch {
            [pscustomobject]@{ Action = $action; Why = "$($action.argv[-1]): $($_.Exception.Message)" }
        }
    }
}

function Clear-Plan {
    Remove-Item -Path $underWay, $begun -Force -ErrorAction SilentlyContinue
}

function Save-Kept {
    if ((Test-Path $underWay) -and (Test-Path $begun)) {
        $all = @(Get-Undo $underWay) + @(Get-Undo $kept)
        @{ rollback = $all } | ConvertTo-Json -Depth 8 | Set-Content -Path $kept -Encoding UTF8
    }
    Clear-Plan
}

function Undo-Plan {
    if ((Test-Path $underWay) -and (Test-Path $begun)) {
        Invoke-Undo (Get-Undo $underWay)
    }
    Clear-Plan
    Remove-Guard
}

$failed = @()
switch ($Verb) {
    'arm' {
        if (Get-Guard) {
            throw 'another change is under way here; unless it is finished it is taken back by itself'
        }
        New-Item -ItemType Directory -Path $Folder -Force | Out-Null
        Save-Kept
        Set-Content -Path $underWay -Value $Plan -Encoding UTF8
        Set-Content -Path $script -Value $Self -Encoding UTF8
        $words = "-NoProfile -NonInteractive -ExecutionPolicy Bypass -File `"$script`" -Verb take-back -Folder `"$Folder`""
        $action = New-ScheduledTaskAction -Execute 'powershell.exe' -Argument $words
        $trigger = New-ScheduledTaskTrigger -Once -At (Get-Date).AddSeconds($Seconds)
        $settings = New-ScheduledTaskSettingsSet -StartWhenAvailable -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries
        Register-ScheduledTask -TaskName $task -Action $action -Trigger $trigger -Settings $settings -User 'SYSTEM' | Out-Null
    }
    'apply' {
        if (-not (Test-Path $underWay)) {
            throw 'there is no plan (any more): what is not finished in time is taken back'
        }
        New-Item -ItemType File -Path $begun -Force | Out-Null
        foreach ($action in (Get-Content -Raw -Path $underWay | ConvertFrom-Json).apply) {
            Invoke-Action $action
        }
    }
    'call-off' {
        if (-not (Get-Guard)) {
            throw 'the change was taken back already: nobody called that off in time'
        }
        Remove-Guard
        Save-Kept
    }
    'take-back' {
        $failed = @(Undo-Plan)
    }
    'left' {
        foreach ($path in @($underWay, $kept)) {
            Get-Undo $path | ForEach-Object { $_.argv[-1] }
        }
    }
    'rollback' {
        $failed = @(Undo-Plan) + @(Invoke-Undo (Get-Undo $kept))
        if ($failed.Count -eq 0) {
            Remove-Item -Path $Folder -Recurse -Force -ErrorAction SilentlyContinue
        } else {
            # Tried again the next time.
            @{ rollback = @($failed.Action) } | ConvertTo-Json -Depth 8 | Set-Content -Path $kept -Encoding UTF8
        }
        'taken back'
    }
    default {
        throw "there is no $Verb"
    }
}
if ($failed.Count -gt 0) {
    throw "not taken back: $($failed.Why -join '; ')"
}
