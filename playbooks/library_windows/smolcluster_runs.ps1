#!powershell
# The module smolcluster_runs on a Windows PC: the same options and results as smolcluster_runs.py, which documents them.
# Ansible takes this file by itself where the shell is PowerShell. Nobody has run this on a real PC.

#AnsibleRequires -CSharpUtil Ansible.Basic
#AnsibleRequires -PowerShell Ansible.ModuleUtils.Smolcluster

$spec = @{
    options = @{
        workdir = @{ type = 'str'; required = $true }
        keep = @{ type = 'int'; default = 0 }
        caches = @{ type = 'bool'; default = $false }
        python = @{ type = 'str'; required = $true }
    }
}
$module = [Ansible.Basic.AnsibleModule]::Create($args, $spec)
Invoke-Smolcluster -Module $module -Command 'upkeep'
$module.ExitJson()
