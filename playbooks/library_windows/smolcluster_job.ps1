#!powershell
# The module smolcluster_job on a Windows PC: the same options and results as smolcluster_job.py, which documents them.
# Ansible takes this file by itself where the shell is PowerShell. Nobody has run this on a real PC.

#AnsibleRequires -CSharpUtil Ansible.Basic
#AnsibleRequires -PowerShell Ansible.ModuleUtils.Smolcluster

$spec = @{
    options = @{
        state = @{ type = 'str'; required = $true; choices = @('checked', 'started', 'stopped', 'polled', 'listed') }
        workdir = @{ type = 'str' }
        node = @{ type = 'str' }
        node_file = @{ type = 'str' }
        node_config = @{ type = 'str' }
        run_dir = @{ type = 'str' }
        ca = @{ type = 'str'; default = '' }
        crl = @{ type = 'str'; default = '' }
        replace = @{ type = 'bool'; default = $false }
        launcher = @{ type = 'str'; default = 'auto' }
        python = @{ type = 'str' }
    }
    required_if = @(
        , @('state', 'checked', @('workdir', 'node', 'python'))
        , @('state', 'listed', @('workdir', 'node', 'python'))
        , @('state', 'started', @('node_file', 'python'))
        , @('state', 'stopped', @('run_dir', 'node', 'python'))
        , @('state', 'polled', @('run_dir', 'node', 'python'))
    )
}
$module = [Ansible.Basic.AnsibleModule]::Create($args, $spec)
Invoke-Smolcluster -Module $module -Command 'act'
$module.ExitJson()
