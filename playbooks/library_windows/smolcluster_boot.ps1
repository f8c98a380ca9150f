#!powershell
# The module smolcluster_boot on a Windows PC: the same options and results as smolcluster_boot.py, which documents them.
# Ansible takes this file by itself where the shell is PowerShell. Nobody has run this on a real PC.

#AnsibleRequires -CSharpUtil Ansible.Basic
#AnsibleRequires -PowerShell Ansible.ModuleUtils.Smolcluster

$spec = @{
    options = @{
        state = @{ type = 'str'; required = $true; choices = @('asked', 'found', 'planned', 'noted', 'forgotten', 'installed', 'removed') }
        node_file = @{ type = 'str' }
        workdir = @{ type = 'str' }
        node = @{ type = 'str' }
        python = @{ type = 'str' }
    }
    required_if = @(
        , @('state', 'asked', @(, 'python'))
        , @('state', 'planned', @('node_file', 'python'))
        , @('state', 'noted', @('node_file', 'python'))
        , @('state', 'installed', @('node_file', 'python'))
        , @('state', 'found', @('workdir', 'node', 'python'))
        , @('state', 'forgotten', @('workdir', 'node', 'python'))
        , @('state', 'removed', @('workdir', 'node', 'python'))
    )
}
$module = [Ansible.Basic.AnsibleModule]::Create($args, $spec)
Invoke-Smolcluster -Module $module -Command 'upkeep'
$module.ExitJson()
